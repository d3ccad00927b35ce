from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from realign_cli.equations import attention as eq


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_masks(seed: int, n: int, pixels: int, share: float) -> Tensor:
    return torch.rand(n, pixels, generator=torch.Generator().manual_seed(seed)) < share


# Eq. 7-9 on QK^T = [4, 2, 0] with d = 4: logits [2, 1, 0]


QUERY = torch.tensor([[2.0, 0, 0, 0]])
KEY = torch.tensor([[2.0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
MATCH = torch.tensor([[False, True, False]])


def test_eq7_by_hand():
    logits = eq.logits(QUERY, KEY)
    torch.testing.assert_close(logits, torch.tensor([[2.0, 1.0, 0.0]]))
    torch.testing.assert_close(logits.softmax(-1), torch.tensor([[0.6652, 0.2447, 0.0900]]), atol=5e-5, rtol=0)


def test_eq9_by_hand():
    logits, all_ = torch.tensor([[4.0, 2.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool)
    m_pos = eq.modulate(logits, all_, torch.ones(1, 1)) - logits
    m_neg = logits - eq.modulate(logits, ~all_, torch.ones(1, 1))
    assert m_pos.tolist() == [[0, 2, 4]]
    assert m_neg.tolist() == [[4, 2, 0]]


def test_eq8_by_hand():
    # lambda = 0.5, S = 2, B = 0.25: weight 0.75; S * M = 0.75 [-4, 2, 0] = [-3, 1.5, 0]; ([4, 2, 0] + S * M) / 2
    weight = eq.modulation_weight(0.5, torch.tensor([[0.25]]), 2.0, clamp=True)
    assert weight.item() == 0.75
    modulated = eq.modulate(eq.logits(QUERY, KEY), MATCH, weight)
    torch.testing.assert_close(modulated, torch.tensor([[0.5, 1.75, 0.0]]))
    attention = eq.modulated_attention(QUERY, KEY, torch.eye(3), MATCH, weight)
    torch.testing.assert_close(attention, torch.tensor([[0.1962, 0.6848, 0.1190]]), atol=5e-5, rtol=0)


def test_strength_falls_with_the_fifth_power_of_the_timestep():
    assert eq.strength(1000, 1.0, 5) == 1
    assert eq.strength(500, 0.3, 5) == pytest.approx(0.3 / 32)
    assert eq.strength(981, 1.0, 5) == pytest.approx(0.909, abs=5e-4)


def test_weight_of_a_query_in_no_mask_is_zero():
    weight = eq.modulation_weight(0.8, torch.tensor([0.0, 0.25, 1.0]), clamp=True)
    torch.testing.assert_close(weight, torch.tensor([0.0, 0.6, 0.0]))


def test_clamp():
    area = torch.tensor([0.1])
    assert eq.modulation_weight(0.9, area, 2.0, clamp=True).item() == 1
    assert eq.modulation_weight(0.9, area, 2.0, clamp=False).item() == pytest.approx(1.62)


@pytest.mark.parametrize(("strength", "area"), [(0.0, 0.3), (0.9, 1.0), (0.9, 0.0)])
def test_nothing_changes_without_strength_or_over_the_whole_image_or_outside_masks(strength: float, area: float):
    query, key, value = random(0, 2, 5, 8), random(1, 2, 7, 8), random(2, 2, 7, 8)
    match = random(3, 5, 7) > 0
    weight = eq.modulation_weight(strength, torch.full((5, 1), area), 2.0, clamp=True)
    modulated = eq.modulated_attention(query, key, value, match, weight)
    torch.testing.assert_close(modulated, F.scaled_dot_product_attention(query, key, value))


@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0.01, 1), st.sampled_from([0.5, 2.0]))
def test_rows_sum_to_one_and_logits_stay_in_their_range(seed: int, strength: float, area: float, score: float):
    logits = 3 * random(seed, 2, 4, 6)
    match = random(seed + 1, 4, 6) > 0
    modulated = eq.modulate(logits, match, eq.modulation_weight(strength, torch.full((4, 1), area), score, clamp=True))
    low, high = logits.aminmax(dim=-1, keepdim=True)
    assert ((modulated >= low - 1e-5) & (modulated <= high + 1e-5)).all()
    assert (modulated[:, match] >= logits[:, match] - 1e-5).all()
    assert (modulated[:, ~match] <= logits[:, ~match] + 1e-5).all()
    torch.testing.assert_close(modulated.softmax(-1).sum(-1), torch.ones(2, 4))


@given(st.integers(0, 10_000), st.floats(0, 3))
def test_clamped_modulation_keeps_the_order_within_matching_and_within_other_keys(seed: int, strength: float):
    logits, match = random(seed, 1, 9), random(seed + 1, 1, 9) > 0
    weight = eq.modulation_weight(strength, torch.tensor([[0.1]]), clamp=True)
    modulated = eq.modulate(logits, match, weight)
    for group in (match, ~match):
        in_order = modulated[group][logits[group].argsort()]
        assert (in_order.diff() >= -1e-5).all()


def test_unclamped_modulation_inverts_the_order():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    weight = eq.modulation_weight(0.9, torch.tensor([[0.1]]), 2.0, clamp=False)
    modulated = eq.modulate(logits, torch.tensor([[False, False, False]]), weight)
    assert modulated[0, 0] < modulated[0, 1] < modulated[0, 2]


# Masks


def test_shrink_keeps_cells_covered_by_half():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, :4, :6] = True  # of the 2x2 cells: 1, 1/2, 0, 0
    assert eq.shrink(mask, 2, 2).tolist() == [[[True, True], [False, False]]]
    mask[0, 0, 5] = False  # 7/16 of the second cell
    assert eq.shrink(mask, 2, 2).tolist() == [[[True, False], [False, False]]]


def test_shrink_never_loses_an_object():
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 17:20, 41:44] = True  # 9 of the 64 pixels of cell (2, 5), where nearest sampling would see none
    assert F.interpolate(mask[None].float(), (8, 8)).sum() == 0
    assert eq.shrink(mask, 8, 8).nonzero().tolist() == [[0, 2, 5]]


def test_shrink_of_nothing_is_nothing():
    assert not eq.shrink(torch.zeros(1, 8, 8, dtype=torch.bool), 4, 4).any()


def test_shrink_to_a_size_that_does_not_divide():
    masks = torch.zeros(2, 10, 10, dtype=torch.bool)
    masks[0], masks[1, 9, 9] = True, True
    small = eq.shrink(masks, 3, 3)
    assert small[0].all()
    assert small[1].nonzero().tolist() == [[2, 2]]


def test_segments_of_overlapping_masks():
    masks = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0]]).bool()
    where = eq.segments(masks)
    assert where.onehot.shape == (5, 3)  # first only, both, second only
    shared = [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0] * 5, [0] * 5]
    assert (where.same @ where.onehot.T).tolist() == shared
    torch.testing.assert_close(where.area, torch.tensor([0.4, 0.6, 0.4, 0.0, 0.0]))


@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(0, 1))
def test_segments_say_which_pixels_share_a_mask(seed: int, n: int, share: float):
    masks = random_masks(seed, n, 20, share)
    where = eq.segments(masks)
    shared = (masks[:, :, None] & masks[:, None, :]).any(0)
    assert torch.equal(where.same @ where.onehot.T, shared.float())
    torch.testing.assert_close(where.area, shared.float().mean(-1))


def test_token_match_and_score():
    # "<bos> a red book and a vase <eos>"; the first object's phrase is "a red book", the second's "book"
    tokens = torch.tensor([[0, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]]).bool()
    masks = torch.tensor([[1, 0, 0], [0, 1, 0]]).bool()
    assert eq.token_match(masks, tokens).int().tolist() == [tokens[0].int().tolist(), tokens[1].int().tolist(), [0] * 8]
    assert eq.token_score(tokens, torch.tensor([0.5, 2.0]), 1.0).tolist() == [1, 0.5, 0.5, 2, 1, 1, 1, 1]
    assert eq.token_score(tokens, torch.tensor([2.0, 0.5]), 0.0).tolist() == [0, 2, 2, 2, 0, 0, 0, 0]


# The folded form of self-attention


def test_row_range_over_several_blocks():
    query, key = random(0, 2, 1100, 8), random(1, 2, 1100, 8)
    logits = query @ key.mT / math.sqrt(8)
    torch.testing.assert_close(eq.row_range(query, key), logits.amax(-1) - logits.amin(-1))
    assert eq.row_range(query[:, :0], key).shape == (2, 0)


def test_row_range_is_bit_equal_to_that_of_the_logits():
    query, key = random(0, 4, 200, 40), random(1, 4, 200, 40)  # sqrt(40) is no float: dividing first would round
    logits = eq.logits(query, key)
    assert torch.equal(eq.row_range(query, key), logits.amax(-1) - logits.amin(-1))


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, Tensor):
                self.elements = max(self.elements, made.numel())
        return result


def test_the_folded_form_holds_no_n_by_n_matrix():
    heads, pixels = 2, 2048
    inputs = [random(i, heads, pixels, 8) for i in range(3)]
    where = eq.segments(random_masks(0, 2, pixels, 0.5))
    weight = eq.modulation_weight(0.9, where.area, clamp=True)
    with Largest() as folded:
        eq.folded_self_attention(*inputs, where, weight)
    with Largest() as explicit:
        eq.modulated_attention(*inputs, where.same @ where.onehot.T > 0, weight[:, None])
    assert explicit.elements == heads * pixels * pixels
    assert folded.elements <= explicit.elements / 8


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 4),
    share=st.floats(0, 1),
    strength=st.floats(0, 1.5),
    clamp=st.booleans(),
)
def test_folded_equals_explicit(seed: int, n: int, share: float, strength: float, clamp: bool):
    query, key, value = (random(seed + i, 3, 36, 8) for i in range(3))
    where = eq.segments(random_masks(seed, n, 36, share))
    weight = eq.modulation_weight(strength, where.area, clamp=clamp)
    match = where.same @ where.onehot.T > 0
    explicit = eq.modulated_attention(query, key, value, match, weight[:, None])
    torch.testing.assert_close(eq.folded_self_attention(query, key, value, where, weight), explicit, atol=1e-5, rtol=0)


def test_folded_equals_explicit_at_the_size_of_stable_diffusion():
    query, key, value = (random(i, 8, 1024, 40) for i in range(3))
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[0, 2:17, 3:20], masks[1, 10:26, 12:30], masks[2, 28:, :6] = True, True, True  # two overlap
    where = eq.segments(masks.flatten(1))
    weight = eq.modulation_weight(0.9, where.area, clamp=True)
    folded = eq.folded_self_attention(query, key, value, where, weight)
    match = where.same @ where.onehot.T > 0
    explicit = eq.modulated_attention(query, key, value, match, weight[:, None])
    torch.testing.assert_close(folded, explicit, atol=1e-5, rtol=0)
    assert (folded - F.scaled_dot_product_attention(query, key, value)).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close(dtype: torch.dtype):
    query, key, value = (random(i, 3, 64, 8) for i in range(3))
    where = eq.segments(random_masks(0, 2, 64, 0.4))
    weight = eq.modulation_weight(0.9, where.area, clamp=True)
    match = where.same @ where.onehot.T > 0
    half = [x.to(dtype) for x in (query, key, value)]
    for actual, expected in (
        (eq.folded_self_attention(*half, where, weight), eq.folded_self_attention(query, key, value, where, weight)),
        (
            eq.modulated_attention(*half, match, weight[:, None]),
            eq.modulated_attention(query, key, value, match, weight[:, None]),
        ),
    ):
        assert actual.dtype is dtype
        torch.testing.assert_close(actual.float(), expected, atol=0.03, rtol=0)


def test_folded_runs_on_the_fused_kernel():
    query, key, value = (random(i, 2, 16, 8) for i in range(3))
    where = eq.segments(random_masks(0, 2, 16, 0.5))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises where it would need the N x N matrix
        eq.folded_self_attention(query, key, value, where, eq.modulation_weight(0.5, where.area, clamp=True))


def test_regional_attention_is_what_a_sum_over_pixels_says() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 6, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    keys, values = torch.randn(3, 2, 4, 8), torch.randn(3, 2, 4, 8)  # texts of another length than the prompt
    weights = torch.tensor([[1.0, 0, 0.5, 0, 0.25, 0], [0, 1, 0.5, 0, 0.25, 0], [0, 0, 0, 0, 0.25, 0.5]])
    out = eq.regional_attention(query, key, value, keys, values, weights)
    for head in range(2):
        for pixel in range(6):
            said = [
                ((k[head] @ query[head, pixel]) / 8**0.5).softmax(0) @ v[head]
                for k, v in zip(keys, values, strict=True)
            ]
            prompt = ((key[head] @ query[head, pixel]) / 8**0.5).softmax(0) @ value[head]
            own = weights[:, pixel]
            expected = sum(w * one for w, one in zip(own, said, strict=True)) + (1 - own.sum()) * prompt
            torch.testing.assert_close(out[head, pixel], expected)


def test_regions_outgrow_their_masks_and_share_what_is_both_theirs() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :, :2] = True  # the first column of 4 x 4 cells
    masks[1, :, 6:] = True  # the last one
    weights = eq.region_weights(masks, (4, 4), 0, (4, 4)).unflatten(1, (4, 4))
    assert weights[0, 0].tolist() == [1, 0, 0, 0] and weights[1, 0].tolist() == [0, 0, 0, 1]
    grown = eq.region_weights(masks, (4, 4), 2, (4, 4)).unflatten(1, (4, 4))
    assert grown[0, 0].tolist() == [1, 0.5, 0.5, 0] and grown[1, 0].tolist() == [0, 0.5, 0.5, 1]
    coarse = eq.region_weights(masks, (4, 4), 0, (2, 2)).unflatten(1, (2, 2))  # a layer of fewer cells
    assert coarse[0].tolist() == [[0.5, 0]] * 2
    assert eq.region_weights(masks, (4, 4), 0, (8, 8)).unflatten(1, (8, 8))[0, 0].tolist() == [1, 1, *[0] * 6]
