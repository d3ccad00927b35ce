"""What each model must be able to do: one small protocol per role.

Every adapter in `realign_cli.models` is built as `Adapter(checkpoint, device=..., **options)`, where `checkpoint` is
a folder or a hub id and the options are the remaining keys of the preset's section. Images are PIL RGB of any size;
a batch may mix sizes. Results do not depend on how images are batched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor
    from torch.nn import Parameter

    from realign_cli.errors import RecordError
    from realign_cli.records import Box, Likelihood, Object, Tag


SamplerSteps = Annotated[int, Field(ge=1, le=999)]  # of the 1000 that a generator is trained with
Guidance = Annotated[float, Field(ge=0, le=1000)]  # beyond it float16 overflows


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


@checked(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Modulation:
    """The numbers of Eq. 8 and 9, section `refine` of a preset; see `equations.attention`.

    lambda_t is w * (t / 1000)^power over the first steps of a run and 0 after them.
    """

    cross: float  # w of cross-attention
    self_: float  # w of self-attention
    power: Annotated[float, Field(ge=0)]
    share: Annotated[float, Field(ge=0, le=1)]  # of the steps, from the first on, that are modulated
    clamp: bool  # hold lambda_t * S * (1 - B) at or below 1
    splice: bool  # in the prompt's embedding, put that of each phrase encoded alone over the phrase's tokens
    score: bool  # S is the likelihood of Eq. 6; else 1
    only_phrase_tokens: bool  # leave tokens outside all phrases alone; else they are pushed down in every mask


@checked(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Training:
    """The numbers of Eq. 4 and 5, section `train` of a preset."""

    reward: str  # NAME=WEIGHT,...
    estimator: Literal["reinforce", "likelihood", "weighted"]
    scale: float  # lambda
    temperature: Annotated[float, Field(gt=0)]  # of reward-weighted denoising, in standard deviations
    steps: SamplerSteps  # T
    first_step: Annotated[int, Field(ge=0)]  # of the sampler, at which a reward term may be taken, counted from 0
    last_step: Annotated[int, Field(ge=0)]
    terms_per_rollout: Annotated[int, Field(ge=1)]
    guidance: Guidance  # during training
    combine: Literal["sum", "alternate"]
    pretraining_images: Annotated[int, Field(ge=0)]  # of L_pre, or of reward-weighted denoising; 0: none
    batch_size: Annotated[int, Field(ge=1)]  # of a micro-batch
    effective_batch_size: Annotated[int, Field(ge=1)]  # of an optimiser step, over all processes
    learning_rate: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    rank: Annotated[int, Field(ge=0)]  # of the LoRA; 0 trains the whole denoiser
    ema: Annotated[float, Field(ge=0, lt=1)]  # decay of the average of the weights; 0 keeps none
    mixed_precision: Literal["no", "fp16", "bf16"]
    gradient_checkpointing: bool
    max_train_steps: Annotated[int, Field(ge=1)]
    checkpointing_steps: Annotated[int, Field(ge=1)]
    sampling_steps: Annotated[int, Field(ge=1)]


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
