"""The numbers of the method, as a preset gives them: checked where they are read, and passed on whole."""

from __future__ import annotations

import math
import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass as checked
from pydantic_core import PydanticCustomError

SamplerSteps = Annotated[int, Field(ge=1, le=999)]  # of the 1000 that a generator is trained with
Guidance = Annotated[float, Field(ge=0, le=1000)]  # beyond it float16 overflows
Share = Annotated[float, Field(ge=0, le=1)]


def image_size(size: int | str) -> tuple[int, int]:
    """Width and height in pixels of a size: "640x512", or 512 for a square.

    Raises:
        ValueError: it is none, or its sides are no multiples of 8 in 8..8192.
    """
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", str(size), re.ASCII)
    width, height = (int(side) for side in (found[1], found[2] or found[1])) if found else (0, 0)
    if any(side % 8 or not 8 <= side <= 8192 for side in (width, height)):
        raise ValueError(size)
    return width, height


def _check_size(size: int | str) -> int | str:
    try:
        image_size(size)
    except ValueError:
        message = "Input should be 512, or WIDTHxHEIGHT, in multiples of 8 from 8 to 8192"
        raise PydanticCustomError("size", message) from None
    return size


ImageSize = Annotated[int | str, AfterValidator(_check_size)]
Threshold = Annotated[tuple[Share, Share], Field(strict=False)]  # TOML has no tuples


@checked(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Modulation:
    """The numbers of Eq. 8 and 9, section `modulation` of a preset; see `equations.attention`.

    lambda_t is w * (t / 1000)^power over the first steps of a run and 0 after them.
    """

    section: ClassVar = "modulation"
    cross_weight: float  # w of cross-attention
    self_weight: float  # w of self-attention
    power: Annotated[float, Field(ge=0)]
    step_fraction: Annotated[float, Field(ge=0, le=1)]  # of the steps, from the first on, that are modulated
    clamp_lambda: bool  # hold lambda_t * S * (1 - B) at or below 1
    splice_phrases: bool  # in the prompt's embedding, put that of each phrase encoded alone over the phrase's tokens
    use_likelihood: bool  # S is the likelihood of Eq. 6; else 1
    only_phrase_tokens: bool  # leave tokens outside all phrases alone; else they are pushed down in every mask


@checked(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Regional:
    """The numbers of regional attention, section `regional` of a preset; see `equations.attention`."""

    section: ClassVar = "regional"
    step_fraction: Annotated[float, Field(ge=0, le=1)]  # of the steps, from the first on, with texts of regions
    dilation: Annotated[
        float, Field(ge=0, le=1)
    ]  # by how much a region outgrows its mask, in shorter sides of the image


@checked(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Dense:
    """The numbers of DenseDiffusion (Kim et al., ICCV 2023), section `dense` of a preset.

    It is the modulation of Eq. 8 and 9 with S = 1 and no clamp, in which the pixels that no mask holds are a segment of
    their own, without a phrase.
    """

    section: ClassVar = "dense"
    cross_weight: float
    self_weight: float
    power: Annotated[float, Field(ge=0)]
    step_fraction: Annotated[float, Field(ge=0, le=1)]
    splice_phrases: bool

    @property
    def modulation(self) -> Modulation:
        """The modulation that it is, apart from the segment of the background."""
        return Modulation(
            cross_weight=self.cross_weight,
            self_weight=self.self_weight,
            power=self.power,
            step_fraction=self.step_fraction,
            clamp_lambda=False,
            splice_phrases=self.splice_phrases,
            use_likelihood=False,
            only_phrase_tokens=False,
        )


RegionControl = Modulation | Regional | Dense
RefineMethod = Literal["modulation", "regional", "dense"]


@checked(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Refining:
    """How images are refined, section `refine` of a preset: the section of that name has the numbers."""

    method: RefineMethod


@checked(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Structure:
    """StructureDiffusion (Feng et al., ICLR 2023), section `structure` of a preset; see `equations.structure`."""

    section: ClassVar = "structure"
    form: Literal["default", "conjunction"]  # one key and many values, or many keys and one value


@checked(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class LatentGuidance:
    """What the methods share that move the latents down a loss of the cross-attention; see `equations.binding`.

    Step i of n moves them by step_size * sqrt(1 - step_decay * i / (n - 1)) times the gradient.
    """

    section: ClassVar[str]
    step_size: Annotated[float, Field(ge=0)]
    step_decay: Annotated[float, Field(ge=0, le=1)]
    step_fraction: Annotated[float, Field(ge=0, le=1)]  # of the steps, from the first on, that are guided
    map_level: Annotated[int, Field(ge=0)]  # how often the latents are halved where the attention is read


@checked(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Attend(LatentGuidance):
    """The numbers of Attend-and-Excite (Chefer et al., SIGGRAPH 2023), section `attend` of a preset.

    A threshold (share of the run, attention) says that at the step where that share of the run is over, the latents are
    moved until each phrase has a pixel with that attention, at most `refinements` times.
    """

    section: ClassVar = "attend"
    thresholds: Annotated[tuple[Threshold, ...], Field(strict=False)]
    refinements: Annotated[int, Field(ge=0)]


@checked(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class SynGen(LatentGuidance):
    """The numbers of SynGen (Rassin et al., NeurIPS 2023), section `syngen` of a preset."""

    section: ClassVar = "syngen"


@checked(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Predicated(LatentGuidance):
    """The numbers of Predicated Diffusion (Sueyoshi and Matsubara, CVPR 2024), section `predicated` of a preset."""

    section: ClassVar = "predicated"
    existence_weight: float  # of "each noun is somewhere"
    foreign_weight: float  # of "no noun is what another noun's modifier says"


PhraseControl = Structure | Attend | SynGen | Predicated
GenerateMethod = Literal["plain", "structure", "attend", "syngen", "predicated"]


@checked(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Generating:
    """How images are generated, section `generate` of a preset: the section of that name has the numbers."""

    method: GenerateMethod = "plain"


@checked(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Loop:
    """How `realign run` spends the passes of the generator, section `loop` of a preset.

    A prompt gets another image until a caption earns `good_enough` or it has had `tries`; the best one is kept. With 0
    tries there is no loop: every image is refined once, as in the paper.
    """

    tries: Annotated[
        int, Field(ge=0)
    ]  # at most, the first image included; 0: every image is refined once, as in the paper
    good_enough: float  # the caption reward (Eq. 4) at which no more are tried
    mend: bool  # use what is found in a drawn image; else every try is a new draw


@checked(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Benching:
    """What `realign bench` compares, section `bench` of a preset."""

    methods: Annotated[tuple[str, ...], Field(strict=False)]
    data: Annotated[tuple[str, ...], Field(strict=False)]  # sets of prompts
    count: Annotated[int, Field(ge=0)]  # prompts of each set, the first ones; 0: all
    seeds: Annotated[tuple[int, ...], Field(strict=False, min_length=1)]
    notes: dict[str, str]  # of a method: what must be known to read its values fairly


Estimator = Literal["reinforce", "likelihood", "draft", "weighted", "nft", "ddpo", "refl"]
ON_POLICY = ("nft", "ddpo")  # what learns from images that the generator draws while it is trained
Combine = Literal["sum", "alternate"]
Precision = Literal["no", "fp16", "bf16"]


def _weights(text: str) -> dict[str, float]:
    """The weight of each reward in "caption=1.0,clip=0.2"; 1 where none is given."""
    weights = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            weights[name] = math.nan
        if not math.isfinite(weights[name]):
            raise PydanticCustomError("weights", f"{weight!r} is no number; write NAME=WEIGHT,...")
    return weights


def _check_weights(text: str) -> str:
    _weights(text)
    return text


@checked(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Training:
    """The numbers of Eq. 4 and 5, section `train` of a preset. They go from there to the loss and the loop as they are.

    Sampler steps are counted from 0.
    """

    reward: Annotated[str, AfterValidator(_check_weights)]  # NAME=WEIGHT,...
    estimator: Estimator  # how the generator learns from the rewards; see training.setup.METHODS
    reward_weight: float  # lambda, the weight of the reward terms
    temperature: Annotated[float, Field(gt=0)]  # of reward-weighted denoising, in standard deviations of the penalty
    sampler_steps: SamplerSteps  # T, the sampler steps of a whole rollout
    first_step: Annotated[int, Field(ge=0)]  # the first sampler step at which a reward term may be taken
    last_step: Annotated[int, Field(ge=0)]  # the last one
    terms_per_rollout: Annotated[int, Field(ge=1)]  # reward terms taken from one rollout
    guidance: Guidance  # scale of classifier-free guidance during training
    images_per_prompt: Annotated[int, Field(ge=1)]  # of nft and ddpo: images of a prompt that are compared
    limit: Annotated[float, Field(gt=0)]  # of nft and ddpo: larger advantages count as this, in standard deviations
    mix: Annotated[float, Field(gt=0)]  # of nft: beta, how far from the old policy its good and bad ones lie
    combine: Combine  # the reward terms and L_pre: both in every optimiser step, or by turns
    pretraining_images: Annotated[int, Field(ge=0)]  # for L_pre, or for reward-weighted denoising; 0 means none
    micro_batch_size: Annotated[int, Field(ge=1)]  # samples in a micro-batch
    effective_batch_size: Annotated[int, Field(ge=1)]  # samples in an optimiser step, over all processes
    learning_rate: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    rank: Annotated[int, Field(ge=0)]  # LoRA rank; 0 fine-tunes the whole U-Net
    ema: Annotated[float, Field(ge=0, lt=1)]  # decay of the average of the weights; 0 keeps no average
    mixed_precision: Precision
    gradient_checkpointing: bool
    max_train_steps: Annotated[int, Field(ge=1)]  # optimiser steps of the whole run
    checkpoint_every: Annotated[int, Field(ge=1)]  # optimiser steps from one checkpoint to the next
    sample_every: Annotated[int, Field(ge=1)]  # optimiser steps from one sheet of sample images to the next

    @property
    def rewards(self) -> dict[str, float]:
        """The weight of each reward, by its name."""
        return _weights(self.reward)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        first, last, terms = self.first_step, self.last_step, self.terms_per_rollout
        if not first <= last < self.sampler_steps:
            raise PydanticCustomError(
                "sampler_steps",
                f"first_step {first} and last_step {last} must lie in 0..{self.sampler_steps - 1}, in this order",
            )
        if self.estimator != "nft" and terms > last - first + 1:  # nft has times between the steps too
            raise PydanticCustomError(
                "terms", f"{terms} terms per rollout, but only {last - first + 1} steps to take them at"
            )
        if self.estimator in ON_POLICY and self.micro_batch_size % self.images_per_prompt:
            raise PydanticCustomError(
                "images_per_prompt",
                f"{self.images_per_prompt} images of each prompt do not make a micro_batch_size of "
                f"{self.micro_batch_size}",
            )
        if self.estimator in ON_POLICY and self.images_per_prompt < 2:
            raise PydanticCustomError("images_per_prompt", "1 image of a prompt has no other to be compared with")
        if self.estimator == "weighted" and not self.pretraining_images:
            raise PydanticCustomError(
                "examples", "pretraining_images is 0, and reward-weighted denoising learns from such images"
            )
        return self
