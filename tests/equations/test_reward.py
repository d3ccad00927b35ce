import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realign_cli.equations.reward import caption_reward, hinge, leave_one_out, sampling_weights, score_function


def test_hand_worked():
    # (3, 4) . (4, 3) = 24, both of length 5: 24 / 25
    assert caption_reward(torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])).item() == pytest.approx(0.96)


def test_one_reward_per_pair():
    generated = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    prompt = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-3.0, 0.0]])
    torch.testing.assert_close(caption_reward(generated, prompt), torch.tensor([1.0, 0.0, -1.0]))


@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_in_its_interval_and_blind_to_length(seed: int, scale: float):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 8, generator=generator)
    reward = caption_reward(a, b)
    assert -1 <= reward <= 1
    assert caption_reward(a, scale * a) <= 1
    torch.testing.assert_close(caption_reward(scale * a, b), reward)


def test_minimising_the_hinge_raises_the_reward():
    reward = torch.tensor([0.25, 1.0, 1.5], requires_grad=True)
    loss = hinge(reward, 1.0)
    torch.testing.assert_close(loss, torch.tensor([0.75, 0.0, 0.0]))
    loss.sum().backward()
    assert reward.grad is not None and reward.grad.tolist() == [-1, 0, 0]


def test_each_reward_is_held_against_the_others():
    # 0.9 against the mean of 0.3 and 0.6; 0.3 against that of 0.9 and 0.6; 0.6 against that of 0.9 and 0.3
    torch.testing.assert_close(leave_one_out(torch.tensor([0.9, 0.3, 0.6])), torch.tensor([0.45, -0.45, 0.0]))


def test_score_function_value_and_gradient_by_hand():
    rewards = torch.tensor([[0.9, 0.3]])
    log_likelihoods = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    value = score_function(rewards, log_likelihoods)
    assert value.tolist() == pytest.approx([0.6])
    value.sum().backward()
    # half of 0.9 - 0.3, and half of 0.3 - 0.9
    assert log_likelihoods.grad is not None
    torch.testing.assert_close(log_likelihoods.grad, torch.tensor([[0.3, -0.3]]))


def test_score_function_is_unbiased():
    """Averaged over all pairs of captions that a two-caption model can say, it is the gradient of E[R]."""
    rewards = torch.tensor([0.9, 0.2])
    logit = torch.tensor(0.3, requires_grad=True)

    def log_chances() -> torch.Tensor:
        return torch.stack([logit, torch.zeros(())]).log_softmax(0)

    (exact,) = torch.autograd.grad((log_chances().exp() * rewards).sum(), logit)
    expected = torch.zeros(())
    for pair in torch.cartesian_prod(torch.arange(2), torch.arange(2)):
        chance = log_chances()[pair].sum().exp().detach()
        (estimate,) = torch.autograd.grad(score_function(rewards[pair][None], log_chances()[pair][None]).sum(), logit)
        expected += chance * estimate
    torch.testing.assert_close(expected, exact)


def test_examples_are_drawn_by_their_penalty_in_standard_deviations():
    penalties = torch.tensor([0.0, 0.0, 2.0, 2.0])  # of standard deviation 1
    shares = sampling_weights(penalties, temperature=0.5)
    few = math.exp(-4)
    torch.testing.assert_close(shares, torch.tensor([1, 1, few, few], dtype=torch.float64) / (2 + 2 * few))


@given(st.floats(0.01, 100), st.floats(-50, 50))
def test_shares_do_not_depend_on_the_scale_of_a_reward(scale: float, shift: float):
    penalties = torch.tensor([0.1, 0.7, 0.2, 0.9], dtype=torch.float64)
    torch.testing.assert_close(sampling_weights(penalties * scale + shift, 0.3), sampling_weights(penalties, 0.3))


def test_equal_penalties_are_equal_shares():
    torch.testing.assert_close(
        sampling_weights(torch.full((4,), 0.3), 0.1), torch.full((4,), 0.25, dtype=torch.float64)
    )
