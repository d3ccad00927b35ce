"""`Ram` at 64x64: it names the kinds of shapes in a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from realign_cli.models.vision.ram import Ram, RamConfig, RamTagger, preprocess, save_ram
from realign_cli.tinyworld.scenes import SHAPES, SIZE
from realign_cli.tinyworld.train.fit import fit
from realign_cli.tinyworld.train.pictures import LOOSE, Pictures, draw_loose
from realign_cli.tinyworld.train.publish import model_card, publish

STEPS, BATCH = 2400, 32

_FIRST = 1  # the first Swin stage with a head for cells; in earlier ones a cell sees too little of a shape


def build() -> Ram:
    ram = Ram(
        RamConfig(
            img=SIZE,
            embed=32,
            depths=[2, 2, 2],
            heads=[2, 4, 4],
            win=4,
            vw=128,
            hid=64,
            inter=128,
            ncls=len(SHAPES),
            proj=64,
        )
    )
    nn.init.normal_(ram.label_embed)
    for weight in ram.visual_encoder.parameters():
        if weight.ndim == 2:  # the library's standard deviation of 0.02 is too small for such narrow stages
            nn.init.xavier_uniform_(weight)
    return ram


class _RamWithCellHeads(nn.Module):
    """A RAM with throw-away heads on its later Swin stages, which name the kind in each cell.

    From tags alone the image encoder learns next to nothing for thousands of steps; with cells it takes hundreds.
    """

    def __init__(self, ram: Ram) -> None:
        super().__init__()
        self.ram = ram
        widths = [ram.config.embed * 2**stage for stage in range(_FIRST, len(ram.config.depths))]
        self.heads = nn.ModuleList(nn.Linear(width, len(SHAPES) + 1) for width in widths)

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, 64, 64) -> logits (B, kinds) of the picture and (B, kinds + 1, side, side) of each stage's cells."""
        seen = self.ram.visual_encoder(pixels, output_hidden_states=True, output_hidden_states_before_downsampling=True)
        stages = seen.reshaped_hidden_states[1 + _FIRST :]
        cells = [head(x.movedim(1, -1)).movedim(-1, 1) for head, x in zip(self.heads, stages, strict=True)]
        return self.ram.answer(self.ram.project(seen.pooler_output, seen.last_hidden_state)), cells


def train(work: Path) -> tuple[Ram, float]:
    """The trained model, and the minutes that it took."""
    torch.manual_seed(0)
    model = _RamWithCellHeads(build())

    def loss(step: int, rank: int) -> Tensor:
        pictures = draw_loose(BATCH, np.random.default_rng([step, rank, 7]))
        logits, cells = model(pixels_of(pictures))
        covered = _cover(pictures)
        total = F.binary_cross_entropy_with_logits(logits, kinds_of(pictures))
        for own in cells:
            share = F.adaptive_avg_pool2d(covered, own.shape[-2:])
            total = total + F.cross_entropy(own, share / share.sum(1, keepdim=True))
        return total

    minutes = fit(model, loss, steps=STEPS, learning_rate=1e-3, work=work, ema=0.998)
    return model.ram, minutes


def pixels_of(pictures: Pictures) -> Tensor:
    """Pixels, normalised as the tagger's input: (n, 3, 64, 64)."""
    return torch.stack([preprocess(to_pil_image(pixels), SIZE) for pixels in pictures.pixels])


def kinds_of(pictures: Pictures) -> Tensor:
    """Which kinds each picture shows: float32 (n, kinds) of 0 and 1."""
    return torch.tensor([[float(shape in kinds) for shape in SHAPES] for kinds in pictures.kinds])


def _cover(pictures: Pictures) -> Tensor:
    """Where each kind is, and the ground last: float32 (n, kinds + 1, 64, 64) of 0 and 1."""
    cover = torch.zeros(len(pictures.kinds), len(SHAPES) + 1, SIZE, SIZE)
    for own, kinds, masks in zip(cover, pictures.kinds, pictures.masks, strict=True):
        for kind, mask in zip(kinds, masks, strict=True):
            own[SHAPES.index(kind)][mask] = 1
        own[-1] = 1 - own[:-1].amax(0)
    return cover


@torch.inference_mode()
def calibrate(model: Ram) -> list[float]:
    """For each kind the threshold with the best F1 on spoiled pictures of the training split."""
    pictures = draw_loose(2000, np.random.default_rng(79))
    confidence = torch.cat([model(part) for part in pixels_of(pictures).split(100)]).sigmoid()
    wanted = kinds_of(pictures)
    candidates = torch.arange(0.3, 0.71, 0.05)  # no wider: training pictures get higher confidence than generated ones
    found = confidence[..., None] > candidates
    hits = (found & (wanted[..., None] > 0)).sum(0)
    f1 = 2 * hits / (found.sum(0) + wanted.sum(0)[:, None])
    # Of equally good thresholds the middle one: it leaves most room on both sides.
    return [float(candidates[row == row.max()].median()) for row in f1]


def measure(tagger: RamTagger, n: int, *, spoil: bool) -> dict[str, float]:
    """Precision, recall and F1 over all kinds of n held-out scenes, and the share of scenes with exactly their tags."""
    pictures = draw_loose(n, np.random.default_rng(80), held_out=True, spoil=spoil)
    tagged = [{tag.label for tag in tags} for tags in tagger.tag([to_pil_image(pixels) for pixels in pictures.pixels])]
    true = [set(kinds) for kinds in pictures.kinds]
    hits = sum(len(a & b) for a, b in zip(tagged, true, strict=True))
    precision = hits / max(sum(map(len, tagged)), 1)
    recall = hits / sum(map(len, true))
    exact = float(np.mean([a == b for a, b in zip(tagged, true, strict=True)]))
    return {
        "F1": 2 * precision * recall / max(precision + recall, 1e-9),
        "precision": precision,
        "recall": recall,
        "exact": exact,
    }


def main(work: Path) -> None:
    model, minutes = train(work)
    folder = work / "model"
    folder.mkdir(exist_ok=True)
    save_ram(model, folder / "model.safetensors", torch.float16)
    (folder / "tag_list.txt").write_text("\n".join(SHAPES) + "\n")
    (folder / "thresholds.txt").write_text("".join(f"{value:.2f}\n" for value in calibrate(model)))
    tagger = RamTagger(folder, device="cpu", threshold=0)
    n = 1000
    quality = {}
    for name, spoil in (("held-out scenes", False), ("held-out scenes, spoiled", True)):
        result = measure(tagger, n, spoil=spoil)
        quality[name] = ", ".join(f"{key} {value:.3f}" for key, value in result.items()) + f" (n={n} pictures)"
    card = model_card(
        model="Recognize Anything on SwinModel",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained_on=LOOSE,
        steps=f"{STEPS} of {BATCH} pictures",
        minutes=f"{minutes:.0f}",
        quality=quality,
    )
    publish("tagger", folder, card)
