"""NegCLIP: CLIP, trained further with hard negatives, captions in which words trade places. Train `clip` first."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from realign_cli.tinyworld.train import clip
from realign_cli.tinyworld.train.publish import WEIGHTS

_STEPS = 600


def main(work: Path) -> None:
    torch.manual_seed(0)
    training = clip.ClipTraining()
    training.clip.load_state_dict(load_file(WEIGHTS / "clip" / "open_clip_model.safetensors"))
    clip.train(training, "negclip", work, steps=_STEPS, learning_rate=5e-4, foils=True, origin="clip")
