"""Losses of cross-attention maps: is each phrase of a prompt in the image, and does it keep its modifiers?

`maps` are the attention of h * w pixels to the T tokens of one prompt, float32 (T, h, w), a mean over heads and layers:
at each pixel they sum to 1. The first token is BOS; EOS and padding follow the prompt. All losses are scalars,
differentiable in `maps`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Word = tuple[int, ...]  # the tokens of a word

_SHARPNESS = 100
_LEAST = 1e-6  # what logarithms are taken of and sums are divided by, so that gradients are finite


class Binding(NamedTuple):
    """The words of a phrase: what names the thing, and what modifies it."""

    head: Word
    modifiers: tuple[Word, ...]


def attend_loss(maps: Tensor, phrases: Sequence[Binding]) -> Tensor:
    """max_s (1 - max_p of the smoothed map of head s): the most neglected thing (Chefer et al., 2023, Eq. 1).

    As in the authors' code: the maps are made sharp by a softmax over the tokens, those of BOS and of the last token
    left out, and smoothed by a kernel of 3 x 3 pixels, exp(-x^2 / 4 sigma^2) with sigma = 0.5, mirrored at the edges.
    """
    sharp = _sharpened(maps)
    heads = torch.stack([sharp[[token - 1 for token in phrase.head]].mean(0) for phrase in phrases])
    rows, columns = ([1, *range(side), side - 2] for side in maps.shape[1:])
    padded = heads[:, None, rows][..., columns]
    line = torch.tensor([1.0, math.e, 1.0], device=maps.device) / (math.e + 2)  # exp(-x^2), scaled
    smooth = F.conv2d(padded, line.outer(line)[None, None])
    return 1 - smooth.flatten(1).amax(1).amin()


def syngen_loss(maps: Tensor, phrases: Sequence[Binding], tokens: Iterable[int]) -> Tensor:
    """Modifiers lie where their heads lie, and both apart from all other words (Rassin et al., 2023, section 3.2).

    sum over pairs (m, n) of a modifier and its head of D(m, n) - (mean_u D(m, u) + mean_u D(n, u)) / 2, where D is the
    symmetric Kullback-Leibler divergence of maps that sum to 1 over the pixels, and u all `tokens` of the prompt but
    the phrase's words. Of a word with several tokens, the most distant one counts.
    """
    shares = maps.flatten(1)
    shares = shares / shares.sum(1, keepdim=True).clamp(min=_LEAST)
    logs = _log(shares)
    distances = ((shares[:, None] - shares) * (logs[:, None] - logs)).sum(-1) / 2  # of all tokens, (T, T)
    terms = []
    for head, modifiers in phrases:
        own = {token for word in (head, *modifiers) for token in word}
        others = [token for token in tokens if token not in own]
        for modifier in modifiers:
            terms.append(distances[list(modifier)][:, list(head)].amax())
            if others:
                apart = [distances[list(word)][:, others].amax(0).mean() for word in (modifier, head)]
                terms.append(-torch.stack(apart).mean())
    return torch.stack(terms).sum()


def predicated_loss(maps: Tensor, phrases: Sequence[Binding], existence_weight: float, foreign_weight: float) -> Tensor:
    """Each thing is somewhere, is what its modifiers say, and is not what those of others say.

    Sueyoshi and Matsubara (2024, section 3): fuzzy logic with products, whose truth values are attention. "Some pixel
    is n" is -log(1 - prod_p (1 - n_p)); "a is b" is -sum_p log(1 - a_p (1 - b_p)), both ways; "a is not b" is
    -sum_p log(1 - a_p b_p). As in the authors' code, sums over pixels are means, also that of the logarithms in the
    product, each of the three is a mean over its formulas, existence reads maps as sharp as those of `attend_loss`, and
    the others read maps brought to [0, 1].
    """
    maps = maps.flatten(1)
    sharp = _sharpened(maps)
    low, high = maps.aminmax(dim=1, keepdim=True)
    truth = (maps - low) / (high - low).clamp(min=_LEAST)

    def of(values: Tensor, word: Word) -> Tensor:
        return values[list(word)].mean(0)

    somewhere = [-_log(1 - _log(1 - of(sharp, tuple(token - 1 for token in head))).mean().exp()) for head, _ in phrases]
    own, foreign = [], []
    for phrase in phrases:
        head = of(truth, phrase.head)
        for other in phrases:
            for modifier in (of(truth, word) for word in other.modifiers):
                if other is phrase:
                    own.append(-(_log(1 - head * (1 - modifier)) + _log(1 - modifier * (1 - head))).mean())
                else:
                    foreign.append(-_log(1 - head * modifier).mean())
    means = [torch.stack(formulas).mean() if formulas else maps.new_zeros(()) for formulas in (somewhere, own, foreign)]
    return existence_weight * means[0] + means[1] + foreign_weight * means[2]


def step_size(first: float, decay: float, step: int, steps: int) -> float:
    """How far step `step` of `steps` goes along the gradient: first * sqrt(1 - decay * step / (steps - 1))."""
    return first * math.sqrt(1 - decay * step / max(1, steps - 1))


def _sharpened(maps: Tensor) -> Tensor:
    """A softmax over the tokens but the first and the last, T - 2 maps."""
    return (_SHARPNESS * maps[1:-1]).softmax(0)


def _log(values: Tensor) -> Tensor:
    return values.clamp(min=_LEAST).log()
