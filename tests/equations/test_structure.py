"""StructureDiffusion, against the sum over phrases as the paper writes it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from realign_cli.equations import structure as eq

T, D, WIDTH, PIXELS = 10, 12, 8, 16
PLACES = [slice(1, 4), slice(5, 7), slice(7, 8)]


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PROMPT = random(0, T, D)
PHRASES = [(random(1 + i, T, D), place) for i, place in enumerate(PLACES)]


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.T / math.sqrt(query.shape[1])).softmax(1) @ value


def versions(prompt: Tensor, phrases: list[tuple[Tensor, slice]]) -> list[Tensor]:
    """The prompt, and for each phrase the prompt with it: token after token."""
    made = [prompt]
    for phrase, place in phrases:
        rows = [phrase[1 + t - place.start] if place.start <= t < place.stop else prompt[t] for t in range(len(prompt))]
        made.append(torch.stack(rows))
    return made


@pytest.mark.parametrize("count", [1, 2, 3])
def test_values_of_the_mean_give_the_mean_of_the_attentions(count: int) -> None:
    """O = 1/(k + 1) sum_i softmax(Q K_p^T / sqrt(d)) V_i, summed explicitly."""
    query, to_key, to_value = random(7, PIXELS, WIDTH), random(8, D, WIDTH), random(9, D, WIDTH)
    key = PROMPT @ to_key
    each = [attention(query, key, text @ to_value) for text in versions(PROMPT, PHRASES[:count])]
    actual = attention(query, key, eq.mean_embedding(PROMPT, PHRASES[:count]) @ to_value)
    torch.testing.assert_close(actual, sum(each) / (count + 1), atol=1e-5, rtol=0)


def test_a_token_keeps_one_part_of_its_phrase_in_k_plus_1() -> None:
    phrases = [(torch.full((4, 2), 3.0), slice(1, 2)), (torch.ones(4, 2), slice(2, 3))]
    mean = eq.mean_embedding(torch.zeros(4, 2), phrases)
    torch.testing.assert_close(mean[:, 0], torch.tensor([0.0, 1.0, 1 / 3, 0.0]))


def test_what_is_in_no_phrase_stays_as_it_was_to_the_bit() -> None:
    mean = eq.mean_embedding(PROMPT, PHRASES)
    outside = torch.ones(T, dtype=torch.bool)
    for place in PLACES:
        outside[place] = False
    assert torch.equal(mean[outside], PROMPT[outside])
    assert not torch.isclose(mean[~outside], PROMPT[~outside]).all(1).any()


def test_a_phrase_that_is_the_whole_prompt_changes_nothing() -> None:
    assert torch.equal(eq.mean_embedding(PROMPT, [(PROMPT, slice(1, 9))]), PROMPT)
    query = random(7, 2, PIXELS, WIDTH)
    key, value = random(8, 2, T, WIDTH), random(9, 2, T, WIDTH)
    same = eq.conjunction_attention(query, key.expand(2, -1, -1, -1), value)
    torch.testing.assert_close(same[0], attention(query[0], key[0], value[0]), atol=1e-6, rtol=0)


def test_the_order_of_phrases_changes_nothing() -> None:
    assert torch.equal(eq.mean_embedding(PROMPT, PHRASES), eq.mean_embedding(PROMPT, PHRASES[::-1]))


def test_a_phrase_goes_where_its_place_is() -> None:
    """Also where another of the same text stands."""
    phrase = random(3, T, D)
    first, second = (eq.mean_embedding(PROMPT, [(phrase, place)]) for place in (slice(1, 3), slice(6, 8)))
    assert torch.equal(first[6:8], PROMPT[6:8]) and torch.equal(second[1:3], PROMPT[1:3])
    torch.testing.assert_close(second[6:8], (PROMPT[6:8] + phrase[1:3]) / 2)


def test_a_conjunction_is_the_mean_over_keys() -> None:
    """O = 1/n sum_i softmax(Q K_i^T / sqrt(d)) V, head after head."""
    query, keys, value = random(1, 3, PIXELS, WIDTH), random(2, 4, 3, T, WIDTH), random(3, 3, T, WIDTH)
    expected = torch.stack([sum(attention(query[h], keys[i, h], value[h]) for i in range(4)) / 4 for h in range(3)])
    torch.testing.assert_close(eq.conjunction_attention(query, keys, value), expected, atol=1e-6, rtol=0)
