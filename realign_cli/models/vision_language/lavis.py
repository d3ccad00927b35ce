"""BLIP-2 (Li et al., 2023) as salesforce-lavis runs it, for numbers that must be LAVIS's own.

LAVIS's pins exclude the transformers and diffusers of the other adapters, so these run in an environment of their own
(docs/lavis.md) and import nothing that needs the others' libraries. Weights, preprocessing of images and texts, and
decoding are LAVIS's; a checkpoint is "NAME/TYPE" of its model zoo, such as "blip2_opt/pretrain_opt2.7b". It fetches
weights into torch's hub folder (`TORCH_HOME`) and language models into `HF_HOME`. `RealignError` is raised where LAVIS
or its weights are missing, `UsageError` where its zoo has no such checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from realign_cli.errors import RealignError, UsageError, first_line
from realign_cli.models.fingerprint import fingerprint

if TYPE_CHECKING:
    from PIL.Image import Image


class LavisCaptioner:
    """The `caption` of `roles.Captioner` by beam search, after the prompt that LAVIS gives the checkpoint.

    It has no gradient and draws no samples, so that `realign train` cannot use it. `min_length` and `max_length` are in
    tokens.
    """

    def __init__(
        self, checkpoint: str, *, device: str, num_beams: int = 5, min_length: int = 1, max_length: int = 30
    ) -> None:
        self.model, self._image, _ = _load(checkpoint, device)
        self._search = {"num_beams": num_beams, "min_length": min_length, "max_length": max_length}

    @torch.no_grad()
    def caption(self, images: Sequence[Image]) -> list[str]:
        if not images:
            return []
        inputs = torch.stack([self._image(image.convert("RGB")) for image in images])
        return self.model.generate({"image": inputs.to(self.model.device)}, **self._search)


class LavisTextEncoder:
    """`roles.TextEncoder`, f_enc of Eq. 4: the text features of LAVIS's Q-Former, (B, 256)."""

    def __init__(self, checkpoint: str, *, device: str) -> None:
        self.model, _, self._text = _load(checkpoint, device)
        del self.model.visual_encoder  # most of the weights, and a text does not pass it

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        model = self.model
        if not texts:
            return torch.empty(0, model.text_proj.out_features)
        # Its `extract_features` would not cut what is longer than the Q-Former reads; its scores of image and text do.
        tokens = model.tokenizer(
            [self._text(text) for text in texts],
            padding=True,
            truncation=True,
            max_length=model.max_txt_len,
            return_tensors="pt",
        ).to(model.device)
        return F.normalize(model.text_proj(model.forward_text(tokens)), dim=-1).float()


class LavisMetric:
    """`roles.ImageTextMetric` with the columns of `blip2.Blip2Metric`.

    `blip_itc` is a cosine in [-1, 1], `blip_itm` in [0, 1].

    LAVIS's own call is made of one image and its prompt at a time, since it takes no texts of different lengths.
    """

    def __init__(self, checkpoint: str, *, device: str) -> None:
        self.model, self._image, self._text = _load(checkpoint, device)
        self.note = (
            "blip_itc: cosine of the text and its nearest image query, raw: not clamped, not scaled; blip_itm: "
            f"probability of a match, 0 to 1; reads {self.model.max_txt_len} tokens; by LAVIS's {checkpoint}"
        )

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, self.note)

    @torch.no_grad()
    def measure(self, images: Sequence[Image], prompts: Sequence[str]) -> dict[str, list[float | None]]:
        columns: dict[str, list[float | None]] = {"blip_itc": [], "blip_itm": []}
        for image, prompt in zip(images, prompts, strict=True):
            pixels = self._image(image.convert("RGB"))[None].to(self.model.device)
            sample = {"image": pixels, "text_input": self._text(prompt)}
            columns["blip_itc"].append(self.model(sample, match_head="itc").item())
            columns["blip_itm"].append(self.model(sample, match_head="itm").softmax(-1)[0, 1].item())
        return columns

    def truncated(self, prompts: Sequence[str]) -> list[bool]:
        texts = [self._text(prompt) for prompt in prompts]
        return [len(self.model.tokenizer(text, verbose=False).input_ids) > self.model.max_txt_len for text in texts]


def _load(checkpoint: str, device: str) -> tuple[Any, Any, Any]:
    """The model, and LAVIS's preprocessing of an image and of a text for it."""
    try:
        from lavis.models import load_model_and_preprocess, model_zoo
    except ImportError as error:
        raise RealignError(
            f"salesforce-lavis cannot be imported ({error}); it runs in an environment of its own: docs/lavis.md"
        ) from None
    name, _, kind = checkpoint.partition("/")
    known = [f"{one}/{kind}" for one, kinds in model_zoo for kind in kinds if one.startswith("blip2")]
    if checkpoint not in known:
        raise UsageError(f"LAVIS has no checkpoint '{checkpoint}'; of BLIP-2 there are {', '.join(known)}")
    try:
        with redirect_stdout(sys.stderr):  # it prints, and on the standard output there are records
            model, images, texts = load_model_and_preprocess(name, kind, is_eval=True, device=device)
    except OSError as error:
        raise RealignError(
            f"LAVIS cannot load {checkpoint}: {first_line(error)}. Make the network reachable, or bring the files: "
            "docs/lavis.md"
        ) from None
    return model.requires_grad_(False), images["eval"], texts["eval"]
