"""CLIP (Radford et al., 2021) and NegCLIP (Yuksekgonul et al., 2023) scores through open_clip."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import open_clip
from huggingface_hub import snapshot_download
from torch import Tensor, no_grad

from realign_cli.models.blip2 import Checkpoint, cannot_load, images_to_input, pixels_to_input

if TYPE_CHECKING:
    from PIL.Image import Image


class OpenClipJudge:
    """`roles.Judge`: the cosine of image and text, in [-1, 1], neither clipped nor scaled, in one named column.

    `checkpoint` is a folder or a hub id (`revision`: its commit) in open_clip's layout: `open_clip_config.json`,
    weights in safetensors, tokenizer. The model must read CLIP's image normalisation, as CLIP and NegCLIP do.

    Raises:
        RealignError: there is no such checkpoint, or it cannot be reached.
    """

    def __init__(self, checkpoint: Checkpoint, *, device: str, column: str, revision: str = "main") -> None:
        try:
            # open_clip's own way to a hub id knows no revision.
            name = f"local-dir:{_folder(os.fspath(checkpoint), revision)}"
            model = open_clip.create_model(name, device=device, require_pretrained=True)
            self.tokenizer = open_clip.get_tokenizer(name)
        except (OSError, ValueError, RuntimeError) as error:
            raise cannot_load(checkpoint, error) from None
        self.model = model.eval().requires_grad_(False)
        self.device = device
        self.column = column

    @no_grad()
    def judge(self, images: Sequence[Image], prompts: Sequence[str]) -> dict[str, list[float | None]]:
        if not images:
            return {self.column: []}
        return {self.column: self._cosine(images_to_input(images, self._size()), prompts).tolist()}

    def similarity(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """The cosine (B,) of float pixels (B, 3, H, W) in [0, 1] and prompts, differentiable in the pixels."""
        return self._cosine(pixels_to_input(pixels.float(), self._size()), prompts)

    def _cosine(self, inputs: Tensor, prompts: Sequence[str]) -> Tensor:
        seen = self.model.encode_image(inputs.to(self.device), normalize=True)
        read = self.model.encode_text(self.tokenizer(list(prompts)).to(self.device), normalize=True)
        return (seen * read).sum(-1)

    def _size(self) -> int:
        size = self.model.visual.image_size
        return size if isinstance(size, int) else size[0]


def _folder(checkpoint: str, revision: str) -> str:
    if Path(checkpoint).is_dir():
        return checkpoint
    return snapshot_download(checkpoint, revision=revision, allow_patterns=["*.json", "*.txt", "*.safetensors"])
