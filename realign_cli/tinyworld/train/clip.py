"""CLIP in open_clip's layout: contrast of pictures and captions, which asks little of who wears which colour."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from realign_cli.models.blip2 import pixels_to_input
from realign_cli.models.open_clip_judge import OpenClipJudge
from realign_cli.tinyworld.scenes import SIZE
from realign_cli.tinyworld.train import examples
from realign_cli.tinyworld.train.captioner import PatchHead
from realign_cli.tinyworld.train.examples import Examples
from realign_cli.tinyworld.train.fit import fit
from realign_cli.tinyworld.train.publish import publish

_STEPS = 1500
_BATCH = 64
_WIDTH = 96
_CONTEXT = 24


def configuration() -> dict[str, object]:
    """The `model_cfg` of open_clip."""
    tower = {"width": _WIDTH, "mlp_ratio": 2.0}
    return {
        "embed_dim": 64,
        "vision_cfg": {
            **tower,
            "image_size": SIZE,
            "patch_size": SIZE // examples.GRID,
            "layers": 3,
            "head_width": _WIDTH // 4,
        },
        "text_cfg": {
            **tower,
            "context_length": _CONTEXT,
            "vocab_size": len(examples.tokenizer()),
            "layers": 2,
            "heads": 4,
            "hf_tokenizer_name": "tokenizer",  # open_clip reads the folder's own, whatever the name
        },
    }


class Lesson(nn.Module):
    """CLIP with a throw-away head that names what each patch shows."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = open_clip.CLIP(**configuration())
        self.patches = PatchHead(_WIDTH)
        self.words = examples.tokenizer()

    def loss(self, drawn: Examples, rng: np.random.Generator, *, foils: bool) -> Tensor:
        """Symmetric contrast; with `foils` each picture is also held against a foil of its own caption.

        The foils are the hard negatives of NegCLIP (Yuksekgonul et al., 2023).
        """
        scenes = drawn.scenes
        self.clip.visual.output_tokens = True
        pooled, patches = self.clip.visual(pixels_to_input(drawn.pixels, SIZE))
        self.clip.visual.output_tokens = False
        same = examples.false_negatives(scenes, scenes)
        others = [examples.foil(scene, rng) for scene in scenes] if foils else []
        texts = self._embed([examples.any_caption(scene, rng) for scene in [*scenes, *others]])
        logits = self.clip.logit_scale.exp().clamp(max=100) * nn.functional.normalize(pooled, dim=-1) @ texts.T
        across = torch.cat([same, examples.false_negatives(scenes, others)], 1) if foils else same
        contrasts = examples.contrast(logits, across) + examples.contrast(logits[:, : len(scenes)].T, same)
        return contrasts / 2 + 0.5 * self.patches.loss(patches, drawn)

    def _embed(self, texts: list[str]) -> Tensor:
        padded = self.words(texts, padding="max_length", max_length=_CONTEXT, truncation=True, return_tensors="pt")
        return self.clip.encode_text(padded.input_ids, normalize=True)


def main(work: Path) -> None:
    torch.manual_seed(0)
    train(
        Lesson(),
        "clip",
        work,
        steps=_STEPS,
        learning_rate=1e-3,
        foils=False,
        card={"trained_on": f"{_STEPS * _BATCH} {SCENES}"},
    )


SCENES = (
    "fresh scenes of the training split with true captions in any order, some with a relation; three quarters of the "
    "pictures spoiled (bent, blurred, noisy, off-colour)"
)


def train(
    lesson: Lesson, role: str, work: Path, *, steps: int, learning_rate: float, foils: bool, card: dict[str, object]
) -> None:
    """Train, save in open_clip's layout, measure and publish."""

    def loss(step: int, rank: int) -> Tensor:
        drawn = examples.draw(_BATCH, step, rank, 40 + foils)
        return lesson.loss(drawn, np.random.default_rng([step, rank, 50 + foils]), foils=foils)

    fit(lesson, loss, steps=steps, learning_rate=learning_rate, work=work, ema=0.998)
    folder = work / "model"
    folder.mkdir(exist_ok=True)
    save_file(lesson.clip.half().state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": configuration()}, indent=2))
    lesson.words.save_pretrained(folder)
    parameters = sum(parameter.numel() for parameter in lesson.clip.parameters())
    card = {
        "model": f"open_clip.CLIP, ViT of 64 patches and a text transformer, {parameters / 1e6:.2f} M parameters",
        **card,
        "extra losses": "colour and kind of every patch (throw-away head)",
        "steps": steps,
        "minutes": f"{examples.minutes(work, steps)} (one thread of a busy two-core machine)",
        **measure(folder, role),
    }
    publish(role, lambda target: shutil.copytree(folder, target, dirs_exist_ok=True), card)


def measure(folder: Path, column: str) -> dict[str, str]:
    """Qualities on held-out scenes, read through the adapter."""
    judge = OpenClipJudge(folder, device="cpu", column=column)

    def score(pixels: Tensor, texts: list[str]) -> Tensor:
        return torch.tensor(judge.judge([to_pil_image(picture) for picture in pixels], texts)[column])

    drawn = examples.held_out(1000, 6)
    card = {}
    for name, seen in (
        ("clean", drawn),
        ("spoiled", Examples(drawn.scenes, examples.spoil(drawn.pixels, np.random.default_rng(7)))),
    ):
        right = examples.prefers_truth(score, seen, 9)
        card[f"true caption above colour-swapped, {name} pictures"] = examples.share(right)
        rng = np.random.default_rng(13)
        texts = [examples.any_caption(scene, rng) for scene in seen.scenes]
        other = score(seen.pixels.roll(1, 0), texts)
        true = score(seen.pixels, texts)
        card[f"own picture above another's, {name} pictures"] = examples.share((true > other).tolist())
        card[f"cosine, {name} pictures"] = f"own {true.mean():.3f}, another's {other.mean():.3f} (n = {len(true)})"
    return card
