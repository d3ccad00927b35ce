"""Training on the generator's own images: what the rewards of several images of one prompt teach it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def group_advantages(rewards: Tensor) -> Tensor:
    """By how much each of G images of a prompt is better than their mean, (P, G).

    In standard deviations over all prompts (Shao et al. 2024 take those of each group, which would make as much of a
    small difference as of a large one). All are 0 where no image is better than another.

    Args:
        rewards: of G >= 2 images of each of P prompts, (P, G).
    """
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred / centred.square().mean().sqrt().clamp(min=1e-8)


def optimality(advantages: Tensor, limit: float) -> Tensor:
    """r of Eq. 6 of DiffusionNFT (Zheng et al. 2025): the probability in [0, 1] that an image counts as a good one.

    Advantages beyond `limit` count as `limit`.
    """
    return 0.5 + 0.5 * (advantages / limit).clamp(-1, 1)


def negative_aware_loss(clean: Tensor, old: Tensor, new: Tensor, optimality: Tensor, mix: float) -> Tensor:
    """The loss of DiffusionNFT (Zheng et al. 2025, Eq. 5) of each image, (B,), divided by `mix`.

    Two implicit policies lie on either side of the old one: (1 - mix) old + mix new is to predict the good images,
    (1 + mix) old - mix new the bad ones. At new = old the gradient is that of (1 - 2r) times the squared error: towards
    images with r > 1/2, away from the others, and none where r = 1/2. Errors are weighed as there: by the inverse of
    their mean size, which is constant to the gradient.

    Args:
        clean: the latents that were drawn, (B, C, h, w).
        old: what the policy that drew them predicts of them, from noise; without gradient.
        new: what the policy in training predicts, of the same noise.
        optimality: r of each image, (B,).
        mix: beta > 0, how far on the way from old to new the implicit policies lie.
    """
    step = mix * (new - old)
    good, bad = _error(old + step, clean), _error(old - step, clean)
    return (optimality * good + (1 - optimality) * bad) / mix


def _error(predicted: Tensor, clean: Tensor) -> Tensor:
    difference = predicted - clean
    size = difference.detach().abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-5)
    return (difference.square() / size).mean((1, 2, 3))
