"""Grounded-SAM: boxes from Grounding DINO for each label, masks from SAM for each box.

Grounding DINO (Liu et al., 2023, arXiv:2303.05499) through transformers, SAM (Kirillov et al., 2023,
arXiv:2304.02643) through `segment_anything`. Both look at one image at a time: padding images to a common size, or
only adding up in another order, would let a result depend on its batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from safetensors.torch import load_file
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_convert
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor
from transformers.utils import logging as transformers_logging

from realign_cli.errors import UsageError
from realign_cli.models.blip2 import cannot_load
from realign_cli.roles import Detection

if TYPE_CHECKING:
    from realign_cli.records import Box

_WHOLE_IMAGE = 0.95  # boxes above this share of the image are scenery ("sky", "standing"), not an object


class GroundingDetector:
    """Boxes for labels, by Grounding DINO.

    Labels are never read back from decoded phrases, which may come out empty, partial or merged ("shirt jacket").
    Each label is scored by its own tokens of the caption "circle. ring.", by the best of them, and each query goes to
    its best label.

    Args:
        checkpoint: folder or hub id of a `GroundingDinoForObjectDetection`.
        device: where to compute, in float32.
        threshold: least score in [0, 1] of a box.
        nms: largest overlap (IoU) between two boxes of one label; of more, the better box stays.
        revision: commit of the hub id.
    """

    def __init__(
        self, checkpoint: str | Path, *, device: str, threshold: float, nms: float, revision: str = "main"
    ) -> None:
        transformers_logging.disable_progress_bar()
        try:
            model = AutoModelForZeroShotObjectDetection.from_pretrained(
                checkpoint, revision=revision, dtype=torch.float32
            )
            self._processor = AutoProcessor.from_pretrained(checkpoint, revision=revision)
        except (OSError, ValueError) as error:
            raise cannot_load(checkpoint, error) from None
        self._model = model.to(device).eval()
        self._threshold = threshold
        self._nms = nms

    def detect(self, images: Sequence[Image], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        return [self._detect(image, list(dict.fromkeys(own))) for image, own in zip(images, labels, strict=True)]

    @torch.inference_mode()
    def _detect(self, image: Image, labels: list[str]) -> list[Detection]:
        texts = [_as_text(label) for label in labels]
        if not any(texts):
            return []
        limit = self._model.config.max_text_len
        tokens = self._processor.tokenizer(
            ". ".join(texts) + ".",
            return_offsets_mapping=True,
            return_tensors="pt",
            truncation=True,
            max_length=limit,
        )
        if tokens["input_ids"].shape[1] == limit and len(labels) > 1:  # more labels than the model reads at once
            half = len(labels) // 2
            found = self._detect(image, labels[:half]) + self._detect(image, labels[half:])
            return sorted(found, key=lambda detection: -detection.score)
        offsets = tokens.pop("offset_mapping")[0]
        pixels = self._processor.image_processor(images=image.convert("RGB"), return_tensors="pt")
        output = self._model(**pixels.to(self._model.device), **tokens.to(self._model.device))
        probabilities = output.logits[0, :, : len(offsets)].sigmoid().cpu()
        scores = torch.stack([(probabilities * span).amax(1) for span in spans(texts, offsets)], 1)
        chosen = choose(output.pred_boxes[0].cpu(), scores, image.size, threshold=self._threshold, nms=self._nms)
        return [Detection(labels[index], box, score) for index, box, score in chosen]


def choose(
    boxes: Tensor, scores: Tensor, size: tuple[int, int], *, threshold: float, nms: float
) -> list[tuple[int, Box, float]]:
    """What to keep of one image's queries: (label index, box in pixels, score), best score first.

    Args:
        boxes: (queries, 4) as centre x, centre y, width, height in shares of the image.
        scores: (queries, labels) in [0, 1].
        size: width and height of the image in pixels.
        threshold: least score.
        nms: largest IoU between two boxes of one label.
    """
    score, index = scores.max(1)
    corners = box_convert(boxes, "cxcywh", "xyxy").clamp(0, 1)
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    corners = (corners * torch.tensor([*size, *size])).round()
    solid = (corners[:, 2:] > corners[:, :2]).all(1)
    kept = ((score > threshold) & (area <= _WHOLE_IMAGE) & solid).nonzero()[:, 0]
    kept = kept[batched_nms(corners[kept], score[kept], index[kept], nms)]
    return [(int(index[i]), _box(corners[i]), round(float(score[i]), 4)) for i in kept.tolist()]


def spans(texts: Sequence[str], offsets: Tensor) -> list[Tensor]:
    """For each text of the caption "text. text." a bool (tokens,): the tokens that lie inside it.

    `offsets` is (tokens, 2), where in the caption each token begins and ends.
    """
    found, start = [], 0
    for text in texts:
        end = start + len(text)
        found.append((offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 1] > offsets[:, 0]))
        start = end + len(". ")
    return found


class SamMasks:
    """The mask of the thing in each box, by SAM.

    Args:
        checkpoint: folder with the weights under the names of `segment_anything`: the published `.pth`, or
            `config.json` (the arguments of `build_sam`) and `model.safetensors`.
        device: where to compute, in float32.
        model: "vit_h", "vit_l" or "vit_b" for a published `.pth`.
    """

    def __init__(self, checkpoint: str | Path, *, device: str, model: str = "") -> None:
        sam = _published_sam(Path(checkpoint), model) if model else _own_sam(Path(checkpoint))
        self._predictor = SamPredictor(sam.to(device).eval())

    def masks(self, images: Sequence[Image], boxes: Sequence[Sequence[Box]]) -> list[NDArray[np.bool_]]:
        return [self._masks(image, own) for image, own in zip(images, boxes, strict=True)]

    def _masks(self, image: Image, boxes: Sequence[Box]) -> NDArray[np.bool_]:
        size = (image.height, image.width)
        if not boxes:
            return np.zeros((0, *size), dtype=bool)
        self._predictor.set_image(np.array(image.convert("RGB")))
        prompts = torch.tensor(boxes, dtype=torch.float32, device=self._predictor.device)
        prompts = self._predictor.transform.apply_boxes_torch(prompts, size)
        masks, _, _ = self._predictor.predict_torch(None, None, boxes=prompts, multimask_output=False)
        result: NDArray[np.bool_] = masks[:, 0].cpu().numpy()
        return result


def _own_sam(folder: Path) -> Sam:
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UsageError(f"{folder}: no {name}; a SAM checkpoint is a folder with config.json and weights")
    sam = build_sam(**json.loads((folder / "config.json").read_text()))
    sam.load_state_dict({key: value.float() for key, value in load_file(folder / "model.safetensors").items()})
    return sam


def _published_sam(folder: Path, model: str) -> Sam:
    if model not in sam_model_registry:
        raise UsageError(f"mask_model.model={model}: choose vit_h, vit_l or vit_b")
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise UsageError(f"{folder}: {len(files)} .pth files; a published SAM is one")
    sam = sam_model_registry[model]()
    try:
        sam.load_state_dict(torch.load(files[0], map_location="cpu", weights_only=True))
    except (RuntimeError, TypeError, UnpicklingError):
        raise UsageError(f"{files[0]}: not the weights of SAM {model}") from None
    return sam


def build_sam(
    *,
    image_size: int,
    patch_size: int,
    width: int,
    depth: int,
    heads: int,
    window_size: int,
    global_attention: Sequence[int],
    prompt_width: int,
    decoder_heads: int,
    decoder_mlp: int,
) -> Sam:
    """A `Sam` with random weights.

    `width`, `depth`, `heads`, `window_size` (patches) and `global_attention` (blocks without windows) are those of
    the image encoder, `prompt_width` that of prompts and mask decoder. SAM ViT-B is (1024, 16, 768, 12, 12, 14,
    [2, 5, 8, 11], 256, 8, 2048).
    """
    grid = image_size // patch_size
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=image_size,
            patch_size=patch_size,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            out_chans=prompt_width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=window_size,
            global_attn_indexes=tuple(global_attention),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=prompt_width,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=prompt_width, mlp_dim=decoder_mlp, num_heads=decoder_heads
            ),
            transformer_dim=prompt_width,
            iou_head_depth=3,
            iou_head_hidden_dim=prompt_width,
        ),
    )


def _as_text(label: str) -> str:
    """A label as the caption has it; "." and "?" would end it."""
    return " ".join(label.lower().replace(".", " ").replace("?", " ").split())


def _box(corners: Tensor) -> Box:
    x0, y0, x1, y1 = (int(value) for value in corners)
    return x0, y0, x1, y1
