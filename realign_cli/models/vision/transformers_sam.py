"""SAM (Kirillov et al., 2023, arXiv:2304.02643) through transformers: the same networks as `grounded_sam.SamMasks`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import SamModel, SamProcessor
from transformers.utils import logging as transformers_logging

from realign_cli.models.loading import cannot_load

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from realign_cli.records import Box


class TransformersSam:
    """`roles.MaskModel`, one image at a time.

    Args:
        checkpoint: folder or hub id of a `SamModel`, such as "facebook/sam-vit-huge".
        device: where to compute, in float32.
        revision: commit of the hub id.
    """

    def __init__(self, checkpoint: str | Path, *, device: str, revision: str = "main") -> None:
        transformers_logging.disable_progress_bar()
        try:
            model: torch.nn.Module = SamModel.from_pretrained(checkpoint, revision=revision, dtype=torch.float32)
            self._processor = SamProcessor.from_pretrained(checkpoint, revision=revision)
        except (OSError, ValueError) as error:
            raise cannot_load(checkpoint, error) from None
        self._model = model.to(torch.device(device)).eval()

    def masks(self, images: Sequence[Image], boxes: Sequence[Sequence[Box]]) -> list[NDArray[np.bool_]]:
        return [self._masks(image, own) for image, own in zip(images, boxes, strict=True)]

    @torch.inference_mode()
    def _masks(self, image: Image, boxes: Sequence[Box]) -> NDArray[np.bool_]:
        if not boxes:
            return np.zeros((0, image.height, image.width), dtype=bool)
        prompts = [[[float(value) for value in box] for box in boxes]]
        inputs = self._processor(images=image.convert("RGB"), input_boxes=prompts, return_tensors="pt")
        sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        inputs = {name: value.to(self._model.device, torch.float32) for name, value in inputs.items()}
        seen = self._model(**inputs, multimask_output=False)
        (found,) = self._processor.post_process_masks(seen.pred_masks.cpu(), *sizes)
        masks: NDArray[np.bool_] = found[:, 0].numpy()
        return masks
