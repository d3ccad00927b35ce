"""What each model must be able to do: one small protocol per role.

Every adapter in `realign_cli.models` is built as `Adapter(checkpoint, device=..., **options)`, where `checkpoint` is
a folder or a hub id and the options are the remaining keys of the preset's section. Images are PIL RGB of any size;
a batch may mix sizes. Results do not depend on how images are batched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor
    from torch.nn import Parameter

    from realign_cli.errors import RecordError
    from realign_cli.records import Box, Likelihood, Object, Tag
from realign_cli.settings import Modulation


@dataclass(frozen=True)
class Region:
    """Where an object is and what the prompt says of it: a bool (H, W) mask, a span of the prompt, Eq. 6."""

    phrase: str
    likelihood: Likelihood
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Request:
    """One image to generate. With `regions` the attention is modulated (Eq. 7-9); without, it is left alone.

    `record` is the id under which a message speaks of it.
    """

    prompt: str
    noise_seed: int
    regions: tuple[Region, ...] = ()
    record: str = ""


@dataclass(frozen=True)
class Detection:
    """One box for one label: x0, y0, x1, y1 in pixels of the image, and a score in [0, 1]."""

    label: str
    box: Box
    score: float


@dataclass(frozen=True)
class Scored:
    """The objects of one prompt, and who named them: the name of a language model, or "rules".

    `recovered` says why it was not the scorer that was asked for.
    """

    objects: list[Object]
    scorer: str
    recovered: RecordError | None = None


class Generator(Protocol):
    def generate(self, requests: Sequence[Request], modulation: Modulation | None = None) -> list[Image | RecordError]:
        """One image per request, or why there is none; the same request gives the same image in any batch."""
        ...


class Trainee(Protocol):
    """A generator whose denoiser is trained. Latents are (B, C, h, w), embeddings (B, T, D), pixels in [0, 1]."""

    steps: int  # of its sampler

    def trained(self) -> Mapping[str, Parameter]:
        """The weights that training changes, by name."""
        ...

    def embed(self, prompts: Sequence[str]) -> Tensor: ...
    def noise(self, seeds: Sequence[int]) -> Tensor:
        """Latents to start from, one noise per seed."""
        ...

    def advance(self, latents: Tensor, embeddings: Tensor, start: int, stop: int, *, guided: bool = True) -> Tensor:
        """Sampler steps `start` up to, without, `stop`; no gradient."""
        ...

    def clean(self, latents: Tensor, embeddings: Tensor, step: int) -> Tensor:
        """x_0' as seen from sampler step `step`, with gradient to the trained weights."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) of clean latents, differentiable."""
        ...

    def encode(self, pixels: Tensor) -> Tensor: ...
    def denoising_loss(self, latents: Tensor, embeddings: Tensor, seed: int) -> Tensor:
        """The loss of diffusion training (B,) at times and noises that `seed` decides, for clean latents."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Image | RecordError]:
        """Images by the weights as they are now, as `Generator.generate`."""
        ...

    def saved_bytes(self) -> int:
        """How much `save` writes."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `--model` reads.

        Raises:
            RealignError: what was written does not load as what was trained.
        """
        ...


class Reward(Protocol):
    margin: float  # m of Eq. 5: a reward at or above it is good enough

    def __call__(self, pixels: Tensor, prompts: Sequence[str], seed: int) -> Tensor:
        """One reward per image, (B,), differentiable in float pixels (B, 3, H, W) in [0, 1]."""
        ...


class Captioner(Protocol):
    def caption(self, images: Sequence[Image]) -> list[str]: ...
    def sample(self, pixels: Tensor, count: int, seed: int) -> list[list[str]]:
        """`count` captions of each image, drawn from p(caption | image)."""
        ...

    def log_likelihood(self, pixels: Tensor, captions: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """log p(caption | image) and the number of its tokens, (B, K) each; differentiable in the pixels."""
        ...


class TextEncoder(Protocol):
    def encode(self, texts: Sequence[str]) -> Tensor:
        """f_enc of Eq. 4: float32 (B, D) rows of unit length."""
        ...


class Tagger(Protocol):
    def tag(self, images: Sequence[Image]) -> list[list[Tag]]:
        """Tags of each image, most confident first; an empty list where nothing is recognised."""
        ...


class Scorer(Protocol):
    def score(self, prompts: Sequence[str], labels: Sequence[Sequence[str]]) -> list[Scored]:
        """For each prompt and its labels one object per distinct label, in the order of the prompt.

        Each `phrase` is a literal span of the prompt, empty where the prompt has no words for the label; `likelihood`
        is 2, 0.5 or 0. There is always an answer: where a scorer finds none, it asks another one and says so.
        """
        ...


class Detector(Protocol):
    def detect(self, images: Sequence[Image], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """Boxes of each image for its own labels (possibly none), best score first."""
        ...


class MaskModel(Protocol):
    def masks(self, images: Sequence[Image], boxes: Sequence[Sequence[Box]]) -> list[NDArray[np.bool_]]:
        """For each image a bool (N, H, W), one mask per box; N may be 0."""
        ...


class Judge(Protocol):
    note: str  # what the columns are: range, clamp, scale, how much of a prompt is read

    @property
    def fingerprint(self) -> str | None:
        """What decides the values beside image and prompt: a hash of weights and preprocessing; None is no model."""
        ...

    def judge(self, images: Sequence[Image], prompts: Sequence[str]) -> dict[str, list[float | None]]:
        """Columns of per-image values, one value per image; None where a column does not apply to an image."""
        ...

    def cut(self, prompts: Sequence[str]) -> list[bool]:
        """Which prompts are longer than what is read of them."""
        ...


@runtime_checkable
class DifferentiableJudge(Protocol):
    """A judge that can be trained against."""

    def similarity(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """The cosine of each image and its prompt (B,), with gradient to float pixels (B, 3, H, W) in [0, 1]."""
        ...


class FeatureExtractor(Protocol):
    name: str  # with the network, the weights and the resizing; only distances of one name compare

    @property
    def fingerprint(self) -> str | None:
        """As of a `Judge`."""
        ...

    def features(self, images: Sequence[Image]) -> NDArray[np.float64]:
        """Features for the Frechet distance, (B, D)."""
        ...


class Models(Protocol):
    """All roles of a preset; each model is loaded when its attribute is first read."""

    @property
    def device(self) -> str: ...

    @property
    def generator(self) -> Generator: ...
    @property
    def captioner(self) -> Captioner: ...
    @property
    def text_encoder(self) -> TextEncoder: ...
    @property
    def tagger(self) -> Tagger: ...
    @property
    def scorer(self) -> Scorer: ...
    @property
    def detector(self) -> Detector: ...
    @property
    def mask_model(self) -> MaskModel: ...
    @property
    def features(self) -> FeatureExtractor: ...
    def judge(self, name: str) -> Judge: ...
