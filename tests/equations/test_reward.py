import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realign_cli.equations.reward import caption_reward


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
