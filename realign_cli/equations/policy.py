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


def transition(latents: Tensor, clean: Tensor, alphas: Tensor, alphas_after: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, C, h, w) and standard deviation (B, 1, 1, 1) of the next latents of a sampler that adds noise.

    DDIM with eta = 1 (Song et al. 2021, Eq. 12 and 16), which makes of sampling a policy whose every step is Gaussian
    (DDPO, Black et al. 2024).

    Args:
        latents: x_t, (B, C, h, w).
        clean: x_0' as it is estimated of them.
        alphas: the products of the alphas at t, broadcastable, in (0, 1).
        alphas_after: at the time after the step; 1 for clean latents, which the step leads to without noise.
    """
    variance = (1 - alphas_after) / (1 - alphas) * (1 - alphas / alphas_after)
    noise = (latents - alphas.sqrt() * clean) / (1 - alphas).sqrt()
    mean = alphas_after.sqrt() * clean + (1 - alphas_after - variance).clamp(min=0).sqrt() * noise
    return mean, variance.sqrt()


def policy_gradient_loss(after: Tensor, mean: Tensor, deviation: Tensor, advantages: Tensor) -> Tensor:
    """-A log p(x_{t-1} | x_t) of each image, (B,), up to a constant, and per number of the latents as in DDPO.

    Args:
        after: the latents x_{t-1} that were drawn, (B, C, h, w); without gradient.
        mean: of the step that drew them, with gradient.
        deviation: of the step, positive.
        advantages: of the images that came of it, (B,).
    """
    log_density = -0.5 * ((after - mean) / deviation).square().mean((1, 2, 3))
    return -advantages * log_density


def _error(predicted: Tensor, clean: Tensor) -> Tensor:
    difference = predicted - clean
    size = difference.detach().abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-5)
    return (difference.square() / size).mean((1, 2, 3))
