"""Closed forms of what on-policy training makes of rewards."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from realign_cli.equations.policy import (
    group_advantages,
    negative_aware_loss,
    optimality,
    policy_gradient_loss,
    transition,
)


def test_advantages_are_within_the_group_and_scaled_over_all():
    rewards = torch.tensor([[1.0, 3.0], [10.0, 10.0]], dtype=torch.float64)
    expected = torch.tensor([[-1.0, 1.0], [0.0, 0.0]], dtype=torch.float64) * 2**0.5
    torch.testing.assert_close(group_advantages(rewards), expected)
    torch.testing.assert_close(group_advantages(rewards * 7 + 2), expected)
    assert not group_advantages(torch.full((3, 4), 0.7)).any()


def test_optimality_is_a_probability():
    found = optimality(torch.tensor([-9.0, -2.0, -1.0, 0.0, 1.0, 2.0, 9.0]), 2.0)
    assert found.tolist() == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_gradient_at_the_old_policy_is_the_advantage_times_that_of_denoising():
    """d/dnew of r |old + b(new - old) - x|^2 + (1 - r) |old - b(new - old) - x|^2, over b, is 2 (2r - 1)(old - x)."""
    draw = torch.Generator().manual_seed(0)
    clean, old = torch.randn(2, 3, 4, 2, 2, generator=draw, dtype=torch.float64)
    r = torch.tensor([0.0, 0.5, 0.9], dtype=torch.float64)
    error = old - clean
    size = error.abs().mean((1, 2, 3), keepdim=True)
    expected = 2 * (2 * r - 1)[:, None, None, None] * error / size / error[0].numel()
    for mix in (0.1, 0.5, 1.0):
        new = old.clone().requires_grad_()
        negative_aware_loss(clean, old, new, r, mix).sum().backward()
        torch.testing.assert_close(new.grad, expected)


def test_with_certain_images_and_no_mixing_it_is_denoising():
    """r = 1 and beta = 1: the squared error of the new policy, over its mean size."""
    draw = torch.Generator().manual_seed(1)
    clean, old, new = torch.randn(3, 2, 4, 2, 2, generator=draw)
    error = new - clean
    expected = error.square().mean((1, 2, 3)) / error.abs().mean((1, 2, 3))
    torch.testing.assert_close(negative_aware_loss(clean, old, new, torch.ones(2), 1.0), expected)


@pytest.mark.parametrize("r", [0.25, 0.75])
def test_its_minimum_lies_where_the_two_policies_agree_with_what_they_are_to_predict(r: float):
    """Without the weighing the best new is old + (2r - 1)/beta (x - old); steps of descent go there from old."""
    old, clean = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    losses = {
        at: negative_aware_loss(clean, old, torch.full_like(old, at), torch.tensor([r]), 0.5).item()
        for at in (-0.1, 0.0, 0.1)
    }
    better = 0.1 if r > 0.5 else -0.1
    assert losses[better] < losses[0.0] < losses[-better]


def test_a_step_of_the_noisy_sampler_is_the_schedulers():
    """Mean and deviation, against a scheduler that is given the noise."""
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    scheduler.set_timesteps(10)
    latents, predicted, noise = torch.randn(3, 2, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    for at in (0, 4, 8):
        t, after = scheduler.timesteps[at], scheduler.timesteps[at + 1]
        a, a_after = scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[after]
        clean = (latents - (1 - a).sqrt() * predicted) / a.sqrt()
        mean, deviation = transition(latents, clean, a, a_after)
        expected = scheduler.step(predicted, t, latents, eta=1.0, variance_noise=noise).prev_sample
        torch.testing.assert_close(mean + deviation * noise, expected)


def test_the_last_step_adds_no_noise():
    latents, clean = torch.randn(2, 1, 4, 3, 3, generator=torch.Generator().manual_seed(3))
    mean, deviation = transition(latents, clean, torch.tensor(0.99), torch.tensor(1.0))
    assert deviation == 0
    torch.testing.assert_close(mean, clean)


def test_the_policy_gradient_is_the_advantage_times_that_of_the_log_density():
    draw = torch.Generator().manual_seed(4)
    after, mean = torch.randn(2, 3, 1, 2, 2, generator=draw, dtype=torch.float64)
    deviation, advantages = torch.tensor(0.7, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
    mean = mean.requires_grad_()
    (found,) = torch.autograd.grad(policy_gradient_loss(after, mean, deviation, advantages).sum(), mean)
    density = torch.distributions.Normal(mean, deviation).log_prob(after).mean((1, 2, 3))
    (expected,) = torch.autograd.grad(-(advantages * density).sum(), mean)
    torch.testing.assert_close(found, expected)
