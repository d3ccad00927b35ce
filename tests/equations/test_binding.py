"""Losses of attention maps, against numbers worked by hand and against loops over pixels written from the papers."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from realign_cli.equations import binding as eq
from realign_cli.equations.binding import Binding

T, SIDE = 9, 4
RED_CAR, BLUE_DOG = Binding((3,), ((2,),)), Binding((6, 7), ((5,),))  # "dog" has two tokens
PHRASES = [RED_CAR, BLUE_DOG]
WORDS = range(1, 8)


def random_maps(seed: int) -> Tensor:
    """Attention (T, N) in double precision, for derivatives by differences."""
    logits = torch.randn(T, SIDE * SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (1.5 * logits).softmax(0)


def square(maps: Tensor) -> Tensor:
    return maps.unflatten(1, (SIDE, SIDE))


def losses(maps: Tensor, phrases: list[Binding]) -> dict[str, Tensor]:
    return {
        "attend": eq.attend_loss(square(maps.float()), phrases),
        "syngen": eq.syngen_loss(maps.float(), phrases, WORDS),
        "predicated": eq.predicated_loss(maps.float(), phrases, 0.1, 0.3),
    }


# Attend-and-Excite


def slow_attend(maps: Tensor, phrases: list[Binding]) -> float:
    a = maps.tolist()
    pixels = range(SIDE * SIDE)
    kept = range(1, T - 1)
    sharp = {}
    for p in pixels:
        total = sum(math.exp(100 * a[u][p]) for u in kept)
        for t in kept:
            sharp[t, p] = math.exp(100 * a[t][p]) / total
    kernel = {(dy, dx): math.exp(-(dy * dy + dx * dx) / (4 * 0.5**2)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}

    def mirrored(x: int) -> int:
        return -x if x < 0 else 2 * (SIDE - 1) - x if x >= SIDE else x

    worst = 0.0
    for phrase in phrases:
        best = 0.0
        for y in range(SIDE):
            for x in range(SIDE):
                value = 0.0
                for (dy, dx), weight in kernel.items():
                    p = mirrored(y + dy) * SIDE + mirrored(x + dx)
                    value += weight * sum(sharp[t, p] for t in phrase.head) / len(phrase.head)
                best = max(best, value / sum(kernel.values()))
        worst = max(worst, max(0.0, 1 - best))
    return worst


@pytest.mark.parametrize("seed", range(3))
def test_attend_is_the_sum_over_pixels_written_out(seed: int) -> None:
    maps = random_maps(seed)
    assert eq.attend_loss(square(maps.float()), PHRASES).item() == pytest.approx(slow_attend(maps, PHRASES), abs=1e-5)


def test_attend_by_hand() -> None:
    """Token 2 has all the attention of one inner pixel, and there the kernel's middle, (e / (e + 2))^2, comes out."""
    maps = torch.zeros(T, SIDE * SIDE)
    maps[4] = 1.0
    maps[:, 5] = 0.0
    maps[2, 5] = 1.0
    middle = (math.e / (math.e + 2)) ** 2
    assert middle == pytest.approx(0.576**2, abs=1e-3)
    assert eq.attend_loss(square(maps), [Binding((2,), ())]).item() == pytest.approx(1 - middle, abs=1e-6)
    assert eq.attend_loss(square(maps), [Binding((4,), ())]).item() == pytest.approx(0, abs=1e-6)
    assert eq.attend_loss(square(maps), [Binding((4,), ()), Binding((2,), ())]).item() == pytest.approx(
        1 - middle, abs=1e-6
    )


# SynGen


def slow_syngen(maps: Tensor, phrases: list[Binding], words: range) -> float:
    a = [[value / sum(row) for value in row] for row in maps.tolist()]

    def divergence(i: int, j: int) -> float:
        return sum(p * math.log(p / q) for p, q in zip(a[i], a[j], strict=True))

    def distance(m: eq.Word, n: eq.Word) -> float:
        return max(0.5 * divergence(i, j) + 0.5 * divergence(j, i) for i in m for j in n)

    loss = 0.0
    for phrase in phrases:
        own = {*phrase.head, *(t for word in phrase.modifiers for t in word)}
        others = [(u,) for u in words if u not in own]
        for modifier in phrase.modifiers:
            loss += distance(modifier, phrase.head)
            loss -= 0.5 * sum(distance(modifier, u) for u in others) / len(others)
            loss -= 0.5 * sum(distance(phrase.head, u) for u in others) / len(others)
    return loss


@pytest.mark.parametrize("phrases", [[RED_CAR], PHRASES, [Binding((3,), ((1,), (2,))), BLUE_DOG]])
def test_syngen_is_the_sum_over_pairs_written_out(phrases: list[Binding]) -> None:
    maps = random_maps(4)
    actual = eq.syngen_loss(maps.float(), phrases, WORDS).item()
    assert actual == pytest.approx(slow_syngen(maps, phrases, WORDS), abs=1e-4)


def test_the_distance_of_syngen_is_symmetric_and_0_only_between_equals() -> None:
    maps = random_maps(5).float()
    there = eq.syngen_loss(maps, [Binding((3,), ((2,),))], (2, 3)).item()
    back = eq.syngen_loss(maps, [Binding((2,), ((3,),))], (2, 3)).item()
    assert there == back > 0
    maps[3] = 0.25 * maps[2]  # which is the same share of the image
    assert eq.syngen_loss(maps, [Binding((3,), ((2,),))], (2, 3)).item() == pytest.approx(0, abs=1e-6)


def test_syngen_wants_a_pair_together_and_others_apart() -> None:
    maps = random_maps(6).float()
    apart = eq.syngen_loss(maps, [RED_CAR], WORDS)
    together = maps.clone()
    together[2] = maps[3]
    assert eq.syngen_loss(together, [RED_CAR], (2, 3)) < eq.syngen_loss(maps, [RED_CAR], (2, 3))
    mixed = maps.clone()
    mixed[5] = maps[3]  # another word where the car is
    assert eq.syngen_loss(mixed, [RED_CAR], WORDS) > apart


# Predicated Diffusion


def slow_predicated(maps: Tensor, phrases: list[Binding], existence: float, foreign: float) -> float:
    a = maps.tolist()
    pixels = range(SIDE * SIDE)
    sharp, truth = {}, {}
    for p in pixels:
        total = sum(math.exp(100 * a[u][p]) for u in range(1, T - 1))
        for t in range(1, T - 1):
            sharp[t, p] = math.exp(100 * a[t][p]) / total
    for t in range(T):
        for p in pixels:
            truth[t, p] = (a[t][p] - min(a[t])) / (max(a[t]) - min(a[t]))

    def mean(values: dict[tuple[int, int], float], word: eq.Word, p: int) -> float:
        return sum(values[t, p] for t in word) / len(word)

    def log(value: float) -> float:
        return math.log(max(value, 1e-6))

    def over_pixels(formula) -> float:  # type: ignore[no-untyped-def]
        return sum(formula(p) for p in pixels) / len(pixels)

    def is_(b: eq.Word, c: eq.Word) -> float:  # b implies c
        return over_pixels(lambda p: -log(1 - mean(truth, b, p) * (1 - mean(truth, c, p))))

    exist = [-log(1 - math.exp(over_pixels(lambda p, h=h: log(1 - mean(sharp, h, p))))) for h, _ in phrases]
    own = [is_(x.head, m) + is_(m, x.head) for x in phrases for m in x.modifiers]
    alien = [
        over_pixels(lambda p, h=x.head, m=m: -log(1 - mean(truth, h, p) * mean(truth, m, p)))
        for x in phrases
        for y in phrases
        if x is not y
        for m in y.modifiers
    ]
    parts = [sum(part) / len(part) if part else 0.0 for part in (exist, own, alien)]
    return existence * parts[0] + parts[1] + foreign * parts[2]


@pytest.mark.parametrize("phrases", [[RED_CAR], PHRASES, [Binding((3,), ()), BLUE_DOG], [Binding((3,), ())]])
def test_predicated_is_the_logic_written_out(phrases: list[Binding]) -> None:
    maps = random_maps(8)
    actual = eq.predicated_loss(maps.float(), phrases, 0.1, 0.3).item()
    assert actual == pytest.approx(slow_predicated(maps, phrases, 0.1, 0.3), rel=1e-4)


def test_predicated_knows_a_prompt_that_is_followed() -> None:
    """Each thing and its modifier have a half of the image, which nothing else attends to."""
    maps = torch.full((T, SIDE * SIDE), 1e-6)
    maps[[2, 3], :8] = 0.5
    maps[[5, 6, 7], 8:] = 1 / 3
    followed = eq.predicated_loss(maps, PHRASES, 0.1, 0.3)
    swapped = eq.predicated_loss(maps, [Binding((3,), ((5,),)), Binding((6, 7), ((2,),))], 0.1, 0.3)
    # of two equal halves a softmax leaves each token its part: 1/2 of 8 pixels, and 1/3 of the other 8
    assert followed.item() == pytest.approx(0.1 * sum(-math.log(1 - (1 - 1 / n) ** 0.5) for n in (2, 3)) / 2, abs=1e-4)
    assert swapped > followed + 1


# All of them


@pytest.mark.parametrize("name", ["attend", "syngen", "predicated"])
def test_the_order_of_phrases_changes_nothing(name: str) -> None:
    three = [*PHRASES, Binding((1,), ((4,),))]
    values = [losses(random_maps(9), list(order))[name].item() for order in permutations(three)]
    assert values == pytest.approx([values[0]] * 6, abs=1e-6)


@pytest.mark.parametrize("name", ["attend", "syngen", "predicated"])
def test_a_small_step_down_the_gradient_lowers_the_loss(name: str) -> None:
    logits = random_maps(10).log().float().requires_grad_()
    before = losses(logits.softmax(0), PHRASES)[name]
    (gradient,) = torch.autograd.grad(before, logits)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    after = losses((logits - 0.01 * gradient / gradient.abs().max()).softmax(0), PHRASES)[name]
    assert after < before


@pytest.mark.parametrize("name", ["attend", "syngen", "predicated"])
def test_maps_of_the_extremes_have_finite_gradients(name: str) -> None:
    """Such as a softmax gives where it is sure: ones and zeros."""
    maps = torch.zeros(T, SIDE * SIDE)
    maps[2, :8] = maps[3, 8:] = 1.0
    maps.requires_grad_()
    value = losses(maps, PHRASES)[name]
    (gradient,) = torch.autograd.grad(value, maps)
    assert value.isfinite() and gradient.isfinite().all()


def test_steps_shrink_as_the_square_root_of_a_line() -> None:
    """20 ... 17.4 at step 24 of 50, as Attend-and-Excite's code takes them; without decay they are constant."""
    sizes = [eq.step_size(20, 0.5, i, 50) for i in range(50)]
    line = torch.linspace(1, 0.5, 50, dtype=torch.float64).sqrt() * 20
    assert sizes == pytest.approx(line.tolist()) and sizes[24] == pytest.approx(17.4, abs=0.05)
    assert {eq.step_size(20, 0.0, i, 50) for i in range(50)} == {20.0}
    assert eq.step_size(3, 0.5, 0, 1) == 3
