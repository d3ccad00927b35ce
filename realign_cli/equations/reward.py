"""Eq. 4, the caption reward, and what Eq. 5 makes of rewards."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def caption_reward(generated: Tensor, prompt: Tensor) -> Tensor:
    """R_cap = cos(f_enc(t_g), f_enc(t_p)), in [-1, 1].

    Args:
        generated: embeddings of the captions t_g of the generated images, (..., D); of any length but zero.
        prompt: embeddings of the prompts t_p, (..., D).

    Returns:
        One reward per pair, (...).
    """
    return F.cosine_similarity(generated, prompt, dim=-1).clamp(-1, 1)  # rounding may leave the interval


def hinge(reward: Tensor, margin: float) -> Tensor:
    """ReLU(margin - R) of Eq. 5, elementwise.

    The paper prints ReLU(R), whose minimisation would lower the reward; this is the mapping of the code that it builds
    on (ImageReward, Xu et al. 2023). Below the margin its gradient is that of -R.
    """
    return F.relu(margin - reward)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Each of K >= 2 rewards, (..., K), less the mean of the other K - 1 (Kool et al. 2019)."""
    count = rewards.shape[-1]
    return (rewards - rewards.mean(-1, keepdim=True)) * count / (count - 1)


def score_function(rewards: Tensor, log_likelihoods: Tensor) -> Tensor:
    """Mean reward of K >= 2 sampled captions per image, (B,), with a gradient although a caption has none.

    The gradient is (1/K) sum_k (r_k - b_k) grad log p(c_k | x), b_k the mean of the other rewards: an unbiased estimate
    of grad E[R] (Williams 1992). `rewards` and `log_likelihoods` are (B, K).
    """
    surrogate = (leave_one_out(rewards).detach() * log_likelihoods).mean(-1)
    return rewards.detach().mean(-1) + surrogate - surrogate.detach()


def sampling_weights(penalties: Tensor, temperature: float) -> Tensor:
    """How often each of N examples is drawn for reward-weighted denoising: positive, (N,), adding up to 1.

    Proportional to exp(-penalty / (temperature * s)), the weight of reward-weighted regression (Peters and Schaal
    2007), used on text-to-image models by Lee et al. 2023. s is the standard deviation of the penalties, so that
    rewards of different scale, such as the cosines of CLIP and of captions, are equally selective at one temperature.
    """
    spread = penalties.double().std(correction=0)
    return (-penalties.double() / (temperature * spread.clamp(min=1e-12))).softmax(0)
