"""Grounded-SAM: boxes from Grounding DINO for each label, masks from SAM for each box.

Grounding DINO (Liu et al., 2023, arXiv:2303.05499) through transformers, SAM (Kirillov et al., 2023,
arXiv:2304.02643) through `segment_anything`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_convert
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor
from transformers.utils import logging as transformers_logging

from realign_cli.errors import UsageError
from realign_cli.models.batches import in_full_batches
from realign_cli.models.loading import cannot_load
from realign_cli.models.thin import squashed
from realign_cli.roles import Detection

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from realign_cli.records import Box

# Times the shorter side. Grounding DINO makes the longer one 1333 pixels; from 42 on its strides leave fewer places
# than it has queries, 900.
_LONGEST = 20
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
        model_batch_size: images looked at together, always as many; see `models.batches`. Only images of one size are,
            so that an image of a size of its own costs as much as `model_batch_size` of them.
        revision: commit of the hub id.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        device: str,
        threshold: float,
        nms: float,
        model_batch_size: int = 1,
        revision: str = "main",
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
        self._model_batch_size = model_batch_size

    @torch.inference_mode()
    def detect(self, images: Sequence[Image], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        by_size: dict[tuple[int, int], list[int]] = {}  # padding images to a common size would change what is seen
        for index, image in enumerate(images):
            by_size.setdefault(image.size, []).append(index)
        found: list[list[Detection]] = [[] for _ in images]
        for indices in by_size.values():
            asked = [(index, part) for index in indices for part in self._parts(list(dict.fromkeys(labels[index])))]
            questions = [(images[index], part) for index, part in asked]
            filling = (images[indices[0]], [""])
            answers = in_full_batches(questions, self._model_batch_size, self._answer, filling)
            for (index, _), answer in zip(asked, answers, strict=True):
                found[index] += answer
        return [sorted(own, key=lambda detection: -detection.score) for own in found]

    def _parts(self, labels: list[str]) -> list[list[str]]:
        """The labels, in parts where they are more than the model reads at once; none where there is no text."""
        if not any(map(_as_text, labels)):
            return []
        if len(labels) > 1 and self._read([labels]).input_ids.shape[1] == self._model.config.max_text_len:
            half = len(labels) // 2
            return self._parts(labels[:half]) + self._parts(labels[half:])
        return [labels]

    def _read(self, labels: Sequence[Sequence[str]], **options: Any) -> Any:
        """Tokens of the captions that ask for labels."""
        captions = [". ".join(map(_as_text, own)) + "." for own in labels]
        limit = self._model.config.max_text_len
        return self._processor.tokenizer(captions, return_tensors="pt", truncation=True, max_length=limit, **options)

    def _answer(self, questions: list[tuple[Image, list[str]]]) -> Iterator[list[Detection]]:
        images, labels = zip(*questions, strict=True)
        # One question is read as it is; among others, all are padded alike, whatever their lengths.
        tokens = self._read(labels, return_offsets_mapping=True, padding=len(questions) > 1 and "max_length")
        offsets = tokens.pop("offset_mapping")
        seen = [squashed(one.convert("RGB"), _LONGEST) for one in images]
        pixels = self._processor.image_processor(images=seen, return_tensors="pt")
        output = self._model(**pixels.to(self._model.device), **tokens.to(self._model.device))
        probabilities = output.logits[..., : offsets.shape[1]].sigmoid().cpu()
        for image, own, at, boxes, chances in zip(
            images, labels, offsets, output.pred_boxes.cpu(), probabilities, strict=True
        ):
            scores = torch.stack([(chances * span).amax(1) for span in spans([*map(_as_text, own)], at)], 1)
            chosen = choose(boxes, scores, image.size, threshold=self._threshold, nms=self._nms)
            yield [Detection(own[index], box, score) for index, box, score in chosen]


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


class _Transform(ResizeLongestSide):  # type: ignore[misc]  # untyped
    """SAM's own, but that no side of a thin image comes to nothing."""

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        height, width = ResizeLongestSide.get_preprocess_shape(oldh, oldw, long_side_length)
        return max(height, 1), max(width, 1)


class SamMasks:
    """The mask of the thing in each box, by SAM.

    Args:
        checkpoint: folder with the weights under the names of `segment_anything`: the published `.pth`, or
            `config.json` (the arguments of `build_sam`) and `model.safetensors`.
        device: where to compute, in float32.
        model: "vit_h", "vit_l" or "vit_b" for a published `.pth`.
        model_batch_size: images looked at together, always as many; see `models.batches`.
    """

    def __init__(self, checkpoint: str | Path, *, device: str, model: str = "", model_batch_size: int = 1) -> None:
        sam = _published_sam(Path(checkpoint), model) if model else _own_sam(Path(checkpoint))
        self._model = sam.to(device).eval()
        self._transform = _Transform(sam.image_encoder.img_size)
        self._model_batch_size = model_batch_size

    def masks(self, images: Sequence[Image], boxes: Sequence[Sequence[Box]]) -> list[NDArray[np.bool_]]:
        masks = [np.zeros((0, image.height, image.width), dtype=bool) for image in images]
        asked = [index for index, own in enumerate(boxes) if own]
        prompts = [self._prompt(images[index], boxes[index]) for index in asked]
        filling = {"image": torch.zeros(3, 1, 1, device=self._model.device), "original_size": (1, 1)}
        answers = in_full_batches(prompts, self._model_batch_size, self._masks, filling)
        for index, found in zip(asked, answers, strict=True):
            masks[index] = found
        return masks

    def _prompt(self, image: Image, boxes: Sequence[Box]) -> dict[str, Any]:
        """What `Sam` takes of an image."""
        size = (image.height, image.width)
        pixels = torch.from_numpy(self._transform.apply_image(np.array(image.convert("RGB")))).permute(2, 0, 1)
        corners = torch.tensor(boxes, dtype=torch.float32, device=self._model.device)
        return {
            "image": pixels.to(self._model.device),
            "original_size": size,
            "boxes": self._transform.apply_boxes_torch(corners, size),
        }

    def _masks(self, prompts: list[dict[str, Any]]) -> Iterator[NDArray[np.bool_]]:
        return (found["masks"][:, 0].cpu().numpy() for found in self._model(prompts, multimask_output=False))


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
