"""CLIP (Radford et al., 2021) and NegCLIP (Yuksekgonul et al., 2023) scores through open_clip."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import open_clip
from huggingface_hub import snapshot_download
from torch import Tensor, no_grad, stack

from realign_cli.errors import RealignError
from realign_cli.models.fingerprint import fingerprint
from realign_cli.models.loading import Checkpoint, cannot_load
from realign_cli.models.pixels import pixels_to_input
from realign_cli.models.thin import squashed

if TYPE_CHECKING:
    from PIL.Image import Image

_LONGEST = 100  # times the shorter side; what is resized by that side before it is cropped grows with it


class OpenClipMetric:
    """`roles.ImageTextMetric`: the cosine of image and text, neither clipped nor scaled, in one column.

    `checkpoint` is a folder or a hub id (`revision`: its commit) in open_clip's layout: `open_clip_config.json`,
    weights, tokenizer. Images are resized, cropped to a square and normalised as its configuration says.

    `quick_gelu` is what the weights were trained with. The two activations fit the same weights, and the wrong one
    gives slightly wrong cosines, so that a configuration that says otherwise is refused; None takes its word.

    Raises:
        RealignError: there is no such checkpoint, it cannot be reached, or it is configured for another activation.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str,
        column: str,
        revision: str = "main",
        quick_gelu: bool | None = None,
    ) -> None:
        try:
            # open_clip's own way to a hub id knows no revision.
            name = f"local-dir:{_folder(os.fspath(checkpoint), revision)}"
            model, self.preprocess = open_clip.create_model_from_pretrained(name, device=device)
            self.tokenizer = open_clip.get_tokenizer(name)
        except (OSError, ValueError, RuntimeError) as error:
            raise cannot_load(checkpoint, error) from None
        self.model = model.eval().requires_grad_(False)
        self.device = device
        self.column = column
        quick = any(isinstance(module, open_clip.transformer.QuickGELU) for module in model.modules())
        if quick_gelu is not None and quick is not quick_gelu:
            kinds = ("GELU", "QuickGELU")
            raise RealignError(
                f"{os.fspath(checkpoint)}: open_clip_config.json builds {kinds[quick]}, but by {column}.quick_gelu the "
                f"weights are of {kinds[quick_gelu]}; correct the one that is wrong"
            )
        self.note = (
            f"cosine of image and text, raw: not clamped, not scaled; {'QuickGELU' if quick else 'GELU'}; "
            f"reads {model.context_length} tokens"
        )

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, str(self.model.visual.preprocess_cfg), self.note)

    @no_grad()
    def measure(self, images: Sequence[Image], prompts: Sequence[str]) -> dict[str, list[float | None]]:
        if not images:
            return {self.column: []}
        inputs = stack([self.preprocess(squashed(image, _LONGEST)) for image in images])
        return {self.column: self._cosine(inputs, prompts).tolist()}

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

    def truncated(self, prompts: Sequence[str]) -> list[bool]:
        # With room for one token more, its place holds padding unless the prompt is cut.
        ids = self.tokenizer(["", *prompts], context_length=self.model.context_length + 1)
        return (ids[1:, -1] != ids[0, -1]).tolist()


def _folder(checkpoint: str, revision: str) -> str:
    if Path(checkpoint).is_dir():
        return checkpoint
    return snapshot_download(checkpoint, revision=revision, allow_patterns=["*.json", "*.txt", "open_clip*"])
