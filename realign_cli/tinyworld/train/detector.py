"""`GroundingDinoForObjectDetection` at 64x64: finds each named kind of shape.

Its image encoder starts from the tagger's, as published detectors start from a classifier: train `tagger` first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert, box_iou, generalized_box_iou_loss, sigmoid_focal_loss
from torchvision.transforms.functional import to_pil_image
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    SwinConfig,
)

from realign_cli.models.vision.grounded_sam import GroundingDetector
from realign_cli.models.vision.ram import load_ram
from realign_cli.tinyworld.scenes import SHAPES, SIZE
from realign_cli.tinyworld.train.fit import fit
from realign_cli.tinyworld.train.pictures import LOOSE, Pictures, draw_loose
from realign_cli.tinyworld.train.publish import WEIGHTS, model_card, publish

STEPS, BATCH = 3000, 16
THRESHOLD, NMS = 0.6, 0.5

_GRIDS = (8, 4)  # cells per side of the two feature levels
_CORE = 0.25  # a cell proposes a thing if its centre is this near to the box's centre, as a share of the box's size
_NEGATIVE, _POSITIVE = 0.4, 0.6  # a query's box is background below the first IoU, and the thing above the second
_UNKNOWN = "blob"  # a word that is no kind of shape, and that the tokenizer does not know


def build() -> GroundingDinoForObjectDetection:
    backbone = SwinConfig(
        image_size=SIZE,
        patch_size=4,
        embed_dim=32,
        depths=[2, 2, 2],
        num_heads=[2, 4, 4],
        window_size=4,
        drop_path_rate=0.0,
        out_features=["stage2", "stage3"],
    )
    text = BertConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_feature_levels=len(_GRIDS),
        num_queries=24,
        max_text_len=32,
        dropout=0.0,
        fusion_droppath=0.0,
        init_std=0.1,  # the library's 0.02 suits wider models
    )
    return GroundingDinoForObjectDetection(config)


def processor() -> GroundingDinoProcessor:
    images = GroundingDinoImageProcessor(size={"height": SIZE, "width": SIZE}, do_pad=False)
    return GroundingDinoProcessor(images, BertTokenizer(vocab=_vocabulary()))


def train(work: Path) -> tuple[GroundingDinoForObjectDetection, float]:
    """The trained model, and the minutes that it took."""
    torch.manual_seed(0)
    model = build()
    encoder = load_ram(WEIGHTS / "tagger" / "model.safetensors").visual_encoder
    model.model.backbone.conv_encoder.model.swin.load_state_dict(encoder.state_dict())
    prepare = processor()

    def loss(step: int, rank: int) -> Tensor:
        rng = np.random.default_rng([step, rank, 5])
        pictures = draw_loose(BATCH, rng)
        labels = [_some_labels(rng) for _ in range(BATCH)]
        pixels = prepare.image_processor(images=list((255 * pictures.pixels).round().byte()), return_tensors="pt")
        tokens = prepare.tokenizer([". ".join(own) + "." for own in labels], padding=True, return_tensors="pt")
        targets = [_targets(pictures, i, own) for i, own in enumerate(labels)]
        output = model(**pixels, **tokens)
        real = F.pad(tokens["attention_mask"].bool(), (0, output.logits.shape[-1] - tokens["input_ids"].shape[1]))
        cells = output.enc_outputs_coord_logits.sigmoid()
        near = [_nearest(target["boxes"]) for target in targets]
        best = [_overlapping(boxes, target["boxes"]) for boxes, target in zip(output.pred_boxes, targets, strict=True)]
        proposals = _loss(output.enc_outputs_class, cells, targets, near, real)
        return proposals + _loss(output.logits, output.pred_boxes, targets, best, real)

    minutes = fit(model, loss, steps=STEPS, learning_rate=1e-3, work=work, ema=0.998)
    return model, minutes


def _vocabulary() -> dict[str, int]:
    """The kinds of shapes, and the special tokens at BERT's ids, which the code of Grounding DINO relies on."""
    fixed = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    words = {1030 + k: shape for k, shape in enumerate(SHAPES)}
    named = fixed | words
    return {named.get(k, f"[unused{k}]"): k for k in range(max(named) + 1)}


def _some_labels(rng: np.random.Generator) -> list[str]:
    """Labels to detect: all kinds or some, in any order, sometimes with a word that nothing is called."""
    count = len(SHAPES) if rng.random() < 0.4 else int(rng.integers(1, len(SHAPES) + 1))
    labels = [str(shape) for shape in rng.permutation(SHAPES)[:count]]
    if rng.random() < 0.15:
        labels.insert(int(rng.integers(count + 1)), _UNKNOWN)
    return labels


def _targets(pictures: Pictures, index: int, labels: list[str]) -> dict[str, Tensor]:
    """The things to detect: `class_labels`, their indices in `labels`, and `boxes`, (things, 4) as cxcywh in [0, 1]."""
    asked = [k for k, kind in enumerate(pictures.kinds[index]) if kind in labels]
    return {
        "class_labels": torch.tensor([labels.index(pictures.kinds[index][k]) for k in asked], dtype=torch.long),
        "boxes": box_convert(pictures.boxes[index][asked], "xyxy", "cxcywh") / SIZE,
    }


def _loss(
    logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]], owners: list[Tensor], real: Tensor
) -> Tensor:
    """Focal loss of the labels' tokens, L1 and generalised IoU of the boxes, per box that has an owner.

    The loss of transformers assigns each thing to one query and does not train the proposals. Here every box near a
    thing belongs to it: duplicates then get equal scores, and non-maximum suppression removes them.

    `logits` is (B, boxes, max_text_len), `boxes` (B, boxes, 4) as cxcywh in [0, 1], `owners[i]` (boxes,) the thing
    that each box belongs to, -1 for background, -2 for neither; `real` (B, max_text_len) marks the caption's tokens.
    """
    wanted = torch.zeros_like(logits)
    counted = real[:, None].expand_as(logits).clone()
    loss_boxes = logits.new_zeros(())
    positives = 0
    for i, (target, owner) in enumerate(zip(targets, owners, strict=True)):
        counted[i, owner == -2] = False
        mine = (owner >= 0).nonzero()[:, 0]
        owner = owner[mine]
        wanted[i, mine, 1 + 2 * target["class_labels"][owner]] = 1  # [CLS] label . label . ... [SEP]
        found, true = boxes[i, mine], target["boxes"][owner]
        corners = [box_convert(part, "cxcywh", "xyxy") for part in (found, true)]
        loss_boxes = loss_boxes + 5 * F.l1_loss(found, true, reduction="sum")
        loss_boxes = loss_boxes + 2 * generalized_box_iou_loss(*corners, reduction="sum")
        positives += len(mine)
    loss_class = sigmoid_focal_loss(logits[counted], wanted[counted], reduction="sum")
    return (2 * loss_class + loss_boxes) / max(positives, 1)


def _nearest(things: Tensor) -> Tensor:
    """The owner of each cell of the feature maps: the nearest thing in whose core the cell lies."""
    centres = torch.cat([_centres(side) for side in _GRIDS])
    if not len(things):
        return torch.full((len(centres),), -1)
    middle, extent = things.split(2, -1)
    away = (centres[:, None] - middle).abs()
    inside = (away < _CORE * extent).all(-1)
    owner = away.norm(dim=-1).masked_fill(~inside, 9.0).argmin(1)
    return owner.masked_fill(~inside.any(1), -1)


@torch.no_grad()
def _overlapping(boxes: Tensor, things: Tensor) -> Tensor:
    """The owner of each predicted box: the thing that it overlaps most. Each thing owns at least its best box."""
    if not len(things):
        return torch.full((len(boxes),), -1)
    overlap = box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(things, "cxcywh", "xyxy"))
    share, owner = overlap.max(1)
    owner = owner.masked_fill(share < _POSITIVE, -2).masked_fill(share < _NEGATIVE, -1)
    owner[overlap.argmax(0)] = torch.arange(len(things))
    return owner


def _centres(side: int) -> Tensor:
    """Centres of a grid of side x side cells, row by row: (cells, 2) as x, y in [0, 1]."""
    ticks = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def measure(detector: GroundingDetector, n: int, *, spoil: bool) -> dict[str, float]:
    """Recall and precision at IoU 0.5 over n held-out scenes, given all kinds at once, and the mean IoU of hits."""
    hits, found, true, overlap = 0, 0, 0, 0.0
    pictures = draw_loose(n, np.random.default_rng(77), held_out=True, spoil=spoil)
    for pixels, kinds, boxes in zip(pictures.pixels, pictures.kinds, pictures.boxes, strict=True):
        image = to_pil_image(pixels)
        detections = detector.detect([image], [SHAPES])[0]
        found, true = found + len(detections), true + len(kinds)
        free = set(range(len(kinds)))
        for detection in detections:
            ious = box_iou(torch.tensor([detection.box]).float(), boxes)[0]
            best = max((k for k in free if kinds[k] == detection.label), key=lambda k: ious[k], default=None)
            if best is not None and ious[best] >= 0.5:
                free.remove(best)
                hits, overlap = hits + 1, overlap + float(ious[best])
    return {"recall": hits / true, "precision": hits / max(found, 1), "iou": overlap / max(hits, 1)}


def main(work: Path) -> None:
    model, minutes = train(work)
    folder = work / "model"
    model.half().save_pretrained(folder)
    processor().save_pretrained(folder)
    detector = GroundingDetector(folder, device="cpu", threshold=THRESHOLD, nms=NMS)
    n = 1000
    quality = {}
    for name, spoil in (("held-out scenes", False), ("held-out scenes, spoiled", True)):
        result = measure(detector, n, spoil=spoil)
        quality[name] = (
            f"recall {result['recall']:.3f}, precision {result['precision']:.3f} at IoU 0.5, "
            f"mean IoU of hits {result['iou']:.3f} (n={n} pictures, threshold {THRESHOLD})"
        )
    card = model_card(
        model="GroundingDinoForObjectDetection",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained_on=LOOSE,
        steps=f"{STEPS} of {BATCH} pictures",
        minutes=f"{minutes:.0f}",
        quality=quality,
    )
    publish("detector", folder, card)
