from __future__ import annotations

import numpy as np
import pytest

from realign_cli.equations.collapse import appearance, collapsed, hacked


def plain(value: int) -> np.ndarray:
    return np.full((2, 2, 8, 8, 3), value, dtype=np.uint8)


def test_a_black_image_is_dark_and_nothing_else():
    assert appearance(plain(0)) == {"dark": 1.0, "entropy": 0.0, "edges": 0.0, "diversity": 0.0}


def test_hand_worked():
    images = plain(0)
    images[:, :, :, 4:] = 255  # half black, half white: one bit, and one edge in each row of 7 neighbours across
    images[:, 1] = images[:, 1, :, ::-1]  # the other seed is its mirror image
    looks = appearance(images)
    assert looks["dark"] == 0.5
    assert looks["entropy"] == pytest.approx(1.0)
    assert looks["edges"] == pytest.approx((1 / 7 + 0) / 2)
    assert looks["diversity"] == pytest.approx(1.0)


def test_signs():
    rich = {"dark": 0.1, "entropy": 2.0, "edges": 0.05, "diversity": 0.3}
    assert collapsed(rich, rich) == []
    assert collapsed({**rich, "entropy": 1.1, "dark": 0.3}, rich) == []
    assert collapsed({**rich, "diversity": 0.1}, rich) == ["diversity fell from 0.300 to 0.100"]
    assert collapsed({**rich, "dark": 0.6}, rich) == ["dark pixels rose from 10% to 60%"]


def test_a_reward_that_is_hacked_shows_elsewhere():
    before = {"things": 2.0, "clip": 0.8, "itm": 0.5, "reward": 0.5}
    assert hacked(before, before, ["clip", "itm"]) == []
    assert hacked({**before, "clip": 0.73, "things": 2.4, "reward": 0.1}, before, ["clip", "itm"]) == []
    assert hacked({**before, "clip": 0.7, "itm": 0.6}, before, ["clip", "itm"]) == [
        "clip, which is not trained on, fell from 0.800 to 0.700"
    ]
    assert hacked({**before, "things": 2.6}, before, []) == ["things per image rose from 2.0 to 2.6"]
