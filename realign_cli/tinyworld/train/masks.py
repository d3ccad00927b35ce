"""`Sam` at 64x64: it draws the mask of the thing in a box. Its card also measures the detector: train that first."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from realign_cli.models.vision.grounded_sam import GroundingDetector, SamMasks, build_sam
from realign_cli.tinyworld.scenes import SHAPES, SIZE
from realign_cli.tinyworld.train import detector
from realign_cli.tinyworld.train.fit import fit
from realign_cli.tinyworld.train.pictures import LOOSE, draw_loose
from realign_cli.tinyworld.train.publish import WEIGHTS, model_card, publish

STEPS, BATCH = 2500, 8
CONFIG = {
    "image_size": SIZE,
    "patch_size": 4,
    "width": 64,
    "depth": 3,
    "heads": 4,
    "window_size": 8,
    "global_attention": [2],
    "prompt_width": 64,
    "decoder_heads": 4,
    "decoder_mlp": 128,
}
_JITTER = 0.08  # standard deviation of a box's edges as a share of its sides, because detected boxes are not exact


def train(work: Path) -> tuple[torch.nn.Module, float]:
    """The trained model, and the minutes that it took."""
    torch.manual_seed(0)
    sam = build_sam(**CONFIG)

    def loss(step: int, rank: int) -> Tensor:
        rng = np.random.default_rng([step, rank, 6])
        pictures = draw_loose(BATCH, rng)
        features = sam.image_encoder(sam.preprocess((255 * pictures.pixels).round()))
        total, things = features.new_zeros(()), 0
        for image, boxes, masks in zip(features, pictures.boxes, pictures.masks, strict=True):
            if not len(boxes):
                continue
            noise = torch.from_numpy(rng.standard_normal(boxes.shape, dtype=np.float32))
            sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
            prompts = (boxes + _JITTER * sides * noise).clamp(0, SIZE)
            sparse, dense = sam.prompt_encoder(points=None, boxes=prompts, masks=None)
            logits, quality = sam.mask_decoder(
                image_embeddings=image[None],
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            true = masks.float()
            shown = logits[:, 0].sigmoid()
            shared = (shown * true).sum((1, 2))
            dice = 1 - (2 * shared + 1) / (shown.sum((1, 2)) + true.sum((1, 2)) + 1)
            pixels = F.binary_cross_entropy_with_logits(logits[:, 0], true, reduction="none").mean((1, 2))
            guess = F.mse_loss(quality[:, 0], mask_iou(logits[:, 0] > 0, masks), reduction="none")
            total = total + (dice + 5 * pixels + 0.2 * guess).sum()
            things += len(boxes)
        return total / max(things, 1)

    minutes = fit(sam, loss, steps=STEPS, learning_rate=1e-3, work=work, ema=0.998)
    return sam, minutes


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of bool masks, (N, H, W) each -> (N,)."""
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)


def measure(masks: SamMasks, finder: GroundingDetector, n: int, *, spoil: bool) -> dict[str, float]:
    """Mean IoU of masks over the things of n held-out scenes, for true boxes and for boxes of the detector.

    With the detector's boxes a kind's mask is the union over its boxes, as in `segment`; a kind that was not found
    counts as 0.
    """
    given_true: list[float] = []
    given_found: list[float] = []
    pictures = draw_loose(n, np.random.default_rng(78), held_out=True, spoil=spoil)
    for pixels, kinds, truth, boxes in zip(
        pictures.pixels, pictures.kinds, pictures.masks, pictures.boxes, strict=True
    ):
        image = to_pil_image(pixels)
        corners = [tuple(int(v) for v in box) for box in boxes]
        given_true += mask_iou(torch.from_numpy(masks.masks([image], [corners])[0]), truth).tolist()
        found = finder.detect([image], [SHAPES])[0]
        drawn = masks.masks([image], [[detection.box for detection in found]])[0]
        for kind, mask in zip(kinds, truth, strict=True):
            own = [i for i, detection in enumerate(found) if detection.label == kind]
            union = torch.from_numpy(drawn[own].any(0))
            given_found.append(float(mask_iou(union[None], mask[None])))
    return {"true boxes": float(np.mean(given_true)), "detected boxes": float(np.mean(given_found))}


def main(work: Path) -> None:
    sam, minutes = train(work)
    folder = work / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    weights = {key: value.half().contiguous() for key, value in sam.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    masks = SamMasks(folder, device="cpu")
    finder = GroundingDetector(WEIGHTS / "detector", device="cpu", threshold=detector.THRESHOLD, nms=detector.NMS)
    n = 500
    quality = {}
    for name, spoil in (("held-out scenes", False), ("held-out scenes, spoiled", True)):
        result = measure(masks, finder, n, spoil=spoil)
        quality[name] = "; ".join(f"mask mIoU {value:.3f} given {key}" for key, value in result.items())
        quality[name] += f" (n={n} pictures)"
    card = model_card(
        model="segment_anything Sam",
        parameters=sum(parameter.numel() for parameter in sam.parameters()),
        trained_on=LOOSE,
        steps=f"{STEPS} of {BATCH} pictures",
        minutes=f"{minutes:.0f}",
        quality=quality,
    )
    publish("masks", folder, card)
