"""The numbers of the method, as a preset gives them: checked where they are read, and passed on whole."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

SamplerSteps = Annotated[int, Field(ge=1, le=999)]  # of the 1000 that a generator is trained with
Guidance = Annotated[float, Field(ge=0, le=1000)]  # beyond it float16 overflows


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
