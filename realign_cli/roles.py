"""What each model must be able to do: one protocol per role, and ROLES, the table of the roles that a preset fills.

Every adapter in `realign_cli.models` is built as `Adapter(checkpoint, device=..., **options)`, where `checkpoint` is
a folder or a hub id, `device` is "cpu" or "cuda", and the options are the remaining keys of the preset's section.
Wherever images are asked for, they are PIL RGB of any size, and a batch may mix sizes. Results do not
depend on how images are batched. B is the number of images or texts of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor
    from torch.nn import Parameter

    from realign_cli.errors import RecordError
    from realign_cli.records import Box, Likelihood, Object, Tag
    from realign_cli.settings import PhraseControl, RegionControl


@dataclass(frozen=True)
class Region:
    """Where an object is and what the prompt says of it: a bool (H, W) mask, a span of the prompt, Eq. 6.

    With an empty phrase nothing is to be there.
    """

    phrase: str
    likelihood: Likelihood
    mask: NDArray[np.bool_]


Span = tuple[int, int]  # where characters of a text start and end


@dataclass(frozen=True)
class NounPhrase:
    """Where in a prompt something is spoken of, which word names it, and which ones say how it is."""

    span: Span
    head: Span
    modifiers: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Request:
    """One image to generate. By `regions` or `phrases` its attention is controlled; without, it is left alone.

    Of each place in `mapped` is kept where the image attended to it. `record` is the id under which a message speaks
    of it.
    """

    prompt: str
    noise_seed: int
    regions: tuple[Region, ...] = ()
    record: str = ""
    phrases: tuple[NounPhrase, ...] = ()
    mapped: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Detection:
    """One box for one label: x0, y0, x1, y1 in pixels of the image, and a score in [0, 1]."""

    label: str
    box: Box
    score: float


@dataclass(frozen=True)
class ScoredObjects:
    """The objects of one prompt, and who named them: the name of a language model, or "rules".

    `recovered` says why it was not the scorer that was asked for.
    """

    objects: list[Object]
    scorer: str
    recovered: RecordError | None = None


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is told of B images: the embeddings of their prompts, and what else it was trained with."""

    tokens: Tensor  # (B, T, D)
    added: Mapping[str, Tensor] = field(default_factory=dict)  # of B rows each, by diffusers' names

    def __getitem__(self, rows: Tensor) -> Conditioning:
        return Conditioning(self.tokens[rows], {name: each[rows] for name, each in self.added.items()})

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of a U-Net of diffusers."""
        return {"encoder_hidden_states": self.tokens, "added_cond_kwargs": dict(self.added)}


EXTRA_STEPS, ATTENTION_MAPS = "extra_steps", "attention_maps"


class Generator(Protocol):
    """Draws images of prompts: the diffusion model that the method realigns.

    A request holds all that decides its image: the prompt, the seed of its noise, and the regions and phrases that are
    minded. The same request gives the same image in any batch.
    """

    def generate(
        self, requests: Sequence[Request], control: RegionControl | PhraseControl | None = None
    ) -> list[Image | RecordError]:
        """One RGB image per request, all of the preset's size, or why there is none.

        `control` says how the regions of the requests are minded, such as by modulated attention (Eq. 8 and 9), or
        their phrases. Without it they are left alone. Where an image took more than the steps of the sampler,
        `image.info[EXTRA_STEPS]` says how many more they would be. `image.info[ATTENTION_MAPS]` has of each place in
        `mapped` that was read in full the share of each pixel's attention that its tokens had, float32 (h, w); the
        image is the same as without, to the bit.
        """
        ...


class TrainableGenerator(Protocol):
    """A generator whose denoiser is trained, for `realign train`.

    Latents are float (B, C, h, w), as the denoiser sees them; pixels are float (B, 3, H, W) in [0, 1]. Sampler steps
    count from 0, the noisiest, to `steps`.
    """

    steps: int  # of its sampler

    def trainable_parameters(self) -> Mapping[str, Parameter]:
        """The weights that training changes, by name."""
        ...

    def embed(self, prompts: Sequence[str], framings: Tensor | None = None) -> Conditioning:
        """What the denoiser is told of each prompt.

        `framings` (B, 4) say of real images their height and width before they were cut to the generator's size, and
        where the cut begins, from the top and from the left; without, nothing was cut.
        """
        ...

    def initial_noise(self, seeds: Sequence[int]) -> Tensor:
        """Latents (B, C, h, w) to start from, one noise per seed."""
        ...

    def denoise(
        self,
        latents: Tensor,
        prompts: Conditioning,
        start: int,
        stop: int,
        *,
        guided: bool = True,
        with_gradient: bool = False,
    ) -> Tensor:
        """Latents after the sampler steps from `start` up to but without `stop`.

        `guided` is with classifier-free guidance.
        """
        ...

    def time(self, step: int) -> int:
        """The time of diffusion at which a sampler step starts: 0 is nearly clean, and 999 or so all noise.

        After the last step it is negative.
        """
        ...

    def alphas(self, times: Tensor) -> Tensor:
        """How much of the variance at `times` (B,) is the clean latents, as (B, 1, 1, 1); 1 at negative times."""
        ...

    def add_noise(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Clean latents as they are at `times` (B,), with that noise."""
        ...

    def predict_x0(self, latents: Tensor, prompts: Conditioning, times: Tensor, *, guided: bool = True) -> Tensor:
        """The clean latents x_0' as they are estimated at `times` (B,), with gradient to the trained weights."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels of clean latents, differentiable."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Clean latents of pixels."""
        ...

    def denoising_loss(self, latents: Tensor, prompts: Conditioning, seed: int) -> Tensor:
        """The loss of diffusion training (B,) of clean latents, at times and with noises that `seed` decides."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Image | RecordError]:
        """Images by the weights as they are now, as `Generator.generate`."""
        ...

    def saved_bytes(self) -> int:
        """How many bytes `save` writes."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `--model` reads.

        Raises:
            RealignError: what was written does not load as what was trained.
        """
        ...


class Reward(Protocol):
    """What `realign train` teaches the generator to raise: a number for each image and its prompt.

    It is built as `Reward(models, **options)`. A reward at or above `margin`, the m of Eq. 5, is good enough: it adds
    nothing to the loss.
    """

    margin: float

    def __call__(self, pixels: Tensor, prompts: Sequence[str], seed: int) -> Tensor:
        """One reward per image, (B,), of float pixels (B, 3, H, W) in [0, 1].

        It is differentiable in the pixels, or else goes with estimators that need its value alone. `seed` decides all
        that is drawn at random on the way.
        """
        ...


class Captioner(Protocol):
    """Says in words what an image shows: the captions that Eq. 4 compares with the prompt.

    `caption` is all that the caption reward of finished images needs. Training by it needs the other two as well.
    """

    def caption(self, images: Sequence[Image]) -> list[str]:
        """One caption of each image, the same whenever it is asked for."""
        ...

    def sample(self, pixels: Tensor, count: int, seed: int) -> list[list[str]]:
        """For each of the float pixels (B, 3, H, W) in [0, 1], `count` captions drawn from p(caption | image)."""
        ...

    def log_likelihood(self, pixels: Tensor, captions: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """log p(caption | image) in nats, and the number of tokens of each caption, both (B, K).

        There are K captions of each image. The likelihood is differentiable in float pixels (B, 3, H, W) in [0, 1].
        """
        ...


class TextEncoder(Protocol):
    """Turns texts into vectors whose products say how close they are in meaning: the f_enc of Eq. 4."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Float32 (B, D) rows of unit length, so that the product of two rows is a cosine in [-1, 1]."""
        ...


class Tagger(Protocol):
    """Names the kinds of things that an image shows, from a list of its own."""

    def tag(self, images: Sequence[Image]) -> list[list[Tag]]:
        """Tags of each image with confidences in [0, 1], highest first; an empty list if nothing is recognised."""
        ...


class Scorer(Protocol):
    """Decides which tags of an image belong to its prompt, and which words of the prompt describe each (Eq. 6).

    It reads texts alone and runs on no device of this computer: a language model of a server, or rules.
    """

    def score(self, prompts: Sequence[str], labels: Sequence[Sequence[str]]) -> list[ScoredObjects]:
        """For each prompt and its labels one object per distinct label, in the order of the prompt.

        Each `phrase` is a literal span of the prompt, empty where the prompt has no words for the label; `likelihood`
        is 2, 0.5 or 0. There is always an answer: where a scorer finds none, it asks another one and says so.
        """
        ...


class Parser(Protocol):
    """Finds the noun phrases of prompts, with their heads and modifiers, for the methods that go by these.

    As a scorer, it reads texts alone.
    """

    def parse(self, prompts: Sequence[str]) -> list[tuple[NounPhrase, ...]]:
        """The noun phrases of each prompt, in its order; none where there are none."""
        ...


class Rewriter(Protocol):
    """Rewrites prompts for the generator; what is asked for, and judged by, stays the prompt as it was given."""

    def rewrite(self, prompts: Sequence[str]) -> list[str]:
        """A rewriting of each prompt, the same whenever it is asked for; empty where there is none of use."""
        ...


class Detector(Protocol):
    """Finds things in images by their names: an open-vocabulary detector."""

    def detect(self, images: Sequence[Image], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """Boxes of each image for its own labels, possibly none of them, best score first."""
        ...


class MaskModel(Protocol):
    """Cuts the thing in a box out of its image, pixel by pixel."""

    def masks(self, images: Sequence[Image], boxes: Sequence[Sequence[Box]]) -> list[NDArray[np.bool_]]:
        """For each image a bool (N, H, W) of its own size, one mask per box; N may be 0.

        Boxes are x0, y0, x1, y1 in pixels of the image.
        """
        ...


class ImageTextMetric(Protocol):
    """Says in numbers how well images follow their prompts: a metric of `realign eval`.

    Each number stands in a named column, such as "clip"; higher is better. `note` tells people what the columns are:
    their range, whether they are clamped or scaled, and how much of a prompt is read.
    """

    note: str

    @property
    def fingerprint(self) -> str | None:
        """What decides the values beside image and prompt, such as a hash of weights and preprocessing.

        Answers are remembered by it, so a change of anything that decides them must change it. None: nothing is
        remembered, as suits a metric that costs no more than a look into the memory.
        """
        ...

    def measure(self, images: Sequence[Image], prompts: Sequence[str]) -> dict[str, list[float | None]]:
        """Finite values by column, one per image; None where a column does not apply to an image.

        The columns are the same for every batch, and no other metric has one of the same name.
        """
        ...

    def truncated(self, prompts: Sequence[str]) -> list[bool]:
        """For each prompt whether it is longer than what is read of it."""
        ...


@runtime_checkable
class DifferentiableMetric(Protocol):
    """A metric that can be trained against, as `training.rewards.SimilarityReward` does."""

    def similarity(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """The cosine of each image and its prompt (B,), with gradient to float pixels (B, 3, H, W) in [0, 1]."""
        ...


class FeatureExtractor(Protocol):
    """Turns images into vectors whose distribution the Fréchet distance compares: the metric `fid`.

    `name` tells the network, the weights and the resizing; only distances of one name compare.
    """

    name: str

    @property
    def fingerprint(self) -> str | None:
        """What decides the features beside the image, as of a `ImageTextMetric`."""
        ...

    def features(self, images: Sequence[Image]) -> NDArray[np.float64]:
        """One row of finite features per image, (B, D)."""
        ...


def parts(protocol: type) -> list[str]:
    """The names of the attributes and methods that a protocol asks for."""
    return [*protocol.__annotations__, *(name for name in vars(protocol) if not name.startswith("_"))]


@dataclass(frozen=True)
class Role:
    """A part that one model of a preset plays: its section, what it must be able to do, and whether it needs a device.

    The settings named `apart` are in the section and are not the adapter's.
    """

    section: str
    protocol: type
    on_device: bool = True
    apart: tuple[str, ...] = ()


ROLES = {
    "generator": Role("generator", Generator),
    "captioner": Role("captioner", Captioner),
    "text_encoder": Role("text_encoder", TextEncoder),
    "tagger": Role("tagger", Tagger),
    "scorer": Role("scorer", Scorer, on_device=False),  # it must not cost an import of torch
    "parser": Role("parser", Parser, on_device=False),
    "rewriter": Role("rewriter", Rewriter),
    "detector": Role("detector", Detector),
    "mask_model": Role("mask_model", MaskModel),
    "features": Role("fid", FeatureExtractor, apart=("reference",)),
}


class Models(ABC):
    """The models of a preset: each of ROLES under its name, loaded when it is first read, and any number of metrics."""

    generator: Generator
    captioner: Captioner
    text_encoder: TextEncoder
    tagger: Tagger
    scorer: Scorer
    parser: Parser
    rewriter: Rewriter
    detector: Detector
    mask_model: MaskModel
    features: FeatureExtractor

    if not TYPE_CHECKING:  # for which the names above are all that there is

        def __getattr__(self, name: str) -> Any:
            if name not in ROLES:
                raise AttributeError(f"{type(self).__name__} has no {name}")
            model = self.__dict__[name] = self.load(name)
            return model

    @property
    @abstractmethod
    def device(self) -> str:
        """Where the models run: "cpu" or "cuda"."""

    @property
    @abstractmethod
    def steps(self) -> int | None:
        """Denoising steps of one image of the generator; None where the preset does not say."""

    @abstractmethod
    def load(self, name: str) -> Any:
        """The model that plays the role of that name in ROLES.

        Raises:
            RealignError: the preset has no such section, or its model cannot be loaded.
        """

    @abstractmethod
    def metric(self, name: str) -> ImageTextMetric:
        """The metric of a section of the preset, one instance of each.

        Raises:
            RealignError: there is no such section, its model cannot be loaded, or it is no metric.
        """
