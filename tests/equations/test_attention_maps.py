"""Running sums of attention become maps that share each pixel, and maps become shares of a mask."""

from __future__ import annotations

import pytest
import torch

from realign_cli.equations import attention as eq
from realign_cli.equations.attention_maps import share_inside, token_maps


def test_a_resolution_weighs_as_much_as_it_has_layers() -> None:
    """Three layers of 2 x 2 pixels, of which all attend to token 0, and one of 1 x 1, half to each: (3 + 0.5) / 4."""
    fine = torch.stack([torch.full((2, 2), 3.0), torch.zeros(2, 2)])
    coarse = torch.full((2, 1, 1), 0.5)
    maps = token_maps([coarse, fine])
    torch.testing.assert_close(maps, torch.tensor([3.5 / 4, 0.5 / 4])[:, None, None].expand(2, 2, 2))


def test_maps_are_enlarged_bilinearly() -> None:
    """From 2 to 4 cells the inner ones are mixed 3 : 1, the outer ones stay."""
    low = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    line = token_maps([torch.cat([low, 1 - low]), torch.zeros(2, 4, 4)])[0, 0]
    assert line.tolist() == [1, 0.75, 0.25, 0]


def test_the_tokens_share_each_pixel_in_every_resolution() -> None:
    draw = torch.Generator().manual_seed(0)
    sums = [
        layers * torch.randn(77, side, side, generator=draw).mul(4).softmax(0)
        for layers, side in ((5, 8), (3, 4), (9, 16))
    ]
    maps = token_maps(sums)
    assert maps.shape == (77, 16, 16) and maps.dtype == torch.float32 and maps.min() >= 0
    torch.testing.assert_close(maps.sum(0), torch.ones(16, 16), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("values", "share"),
    [([[1, 0], [0, 0]], 1.0), ([[0, 1], [1, 1]], 0.0), ([[1, 1], [1, 1]], 0.25), ([[3, 1], [0, 2]], 0.5)],
)
def test_the_share_of_a_map_inside_a_mask(values: list[list[float]], share: float) -> None:
    """The mask is the upper left quarter of 4 x 4 pixels; a map has one cell for each quarter."""
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2, :2] = True
    assert share_inside(torch.tensor(values, dtype=torch.float32), mask) == share


def test_a_cell_counts_by_how_much_of_it_is_covered() -> None:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:, 1:3] = True  # half of each cell
    assert share_inside(torch.tensor([[1.0, 5.0], [0.0, 2.0]]), mask) == 0.5
    assert share_inside(torch.zeros(2, 2), mask) == 0
    assert share_inside(torch.ones(2, 2), torch.zeros(4, 4, dtype=torch.bool)) == 0


def test_written_out_maps_are_those_by_which_values_are_mixed() -> None:
    draw = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, n, 4, generator=draw) for n in (9, 5, 5))
    plain = eq.plain_map(query, key)
    torch.testing.assert_close(plain @ value, torch.nn.functional.scaled_dot_product_attention(query, key, value))
    match, weight = torch.rand(9, 5, generator=draw) > 0.5, torch.rand(9, 1, generator=draw)
    modulated = eq.modulated_map(query, key, match, weight)
    assert torch.equal(modulated @ value, eq.modulated_attention(query, key, value, match, weight))
    for one in (plain, modulated):
        torch.testing.assert_close(one.sum(-1), torch.ones(2, 9))


def test_what_a_region_reads_counts_for_the_tokens_that_it_was_taken_from() -> None:
    """One head, two pixels, three tokens. Queries of 0 attend evenly: to the prompt by a third each.

    The text of the region is token 0 as it is, and tokens 1 and 2 both stand for token 2 of the prompt. The first pixel
    is the region's, the second one to a quarter: (1/3, 0, 2/3), and 3/4 (1/3, 1/3, 1/3) + 1/4 (1/3, 0, 2/3).
    """
    query, key = torch.zeros(1, 2, 4), torch.ones(1, 3, 4)
    readings = torch.tensor([[[1.0, 0, 0], [0, 0, 1], [0, 0, 1]]])
    found = eq.regional_map(query, key, key[None], readings, torch.tensor([[1.0, 0.25]]))
    torch.testing.assert_close(found, torch.tensor([[[4.0, 0, 8], [4, 3, 5]]]) / 12)
