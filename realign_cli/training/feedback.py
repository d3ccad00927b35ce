"""Prompts -> losses of reward feedback learning (Eq. 5, Xu et al. 2023), one micro-batch at a time.

Everything drawn at random comes from the micro-batch's own seed, so that a run can be continued at any step, and the
same micro-batches on more processes are the same computation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from realign_cli.equations.collapse import appearance, collapsed
from realign_cli.equations.reward import example_shares
from realign_cli.errors import RealignError, RecordError, UsageError
from realign_cli.pictures import grid
from realign_cli.roles import Models, Request, Reward, Trainee
from realign_cli.stages.caption_reward import captions

if TYPE_CHECKING:
    from pathlib import Path

    from torch.nn import Parameter
from functools import cache

from realign_cli.training.examples import Examples
from realign_cli.training.rewards import penalise

_SAMPLED, _SEEDS = 8, 3  # prompts on the sample sheet, and images of each


@dataclass(frozen=True)
class Feedback:
    """The numbers of Eq. 5, from section `train` of a preset and the command line."""

    rewards: Mapping[str, float]  # the weight of each
    weighted: bool  # reward-weighted denoising; else the rewards' gradients go through the image
    scale: float  # lambda
    temperature: float  # of reward-weighted denoising, in standard deviations of the penalty
    first_step: int  # of the sampler, at which a reward term may be taken, counted from 0
    last_step: int
    terms: int  # reward terms per rollout
    combine: Literal["sum", "alternate"]  # the reward terms and L_pre: in every optimiser step, or by turns
    batch_size: int  # of a micro-batch
    micro_batches: int  # in an optimiser step
    seed: int


@dataclass(frozen=True)
class Loss:
    """A scalar with gradient, and numbers for the log."""

    value: Tensor
    log: Mapping[str, float]


class RewardFeedback:
    """The terms of Eq. 5, micro-batch by micro-batch; without `examples` there is no L_pre.

    Raises:
        UsageError: fewer sampler steps to choose from than reward terms to take, or no such steps; nothing to weight.
    """

    def __init__(
        self,
        models: Models,
        trainee: Trainee,
        rewards: Mapping[str, Reward],
        feedback: Feedback,
        prompts: Sequence[str],
        examples: Examples | None,
    ) -> None:
        first, last = feedback.first_step, feedback.last_step
        if not 0 <= first <= last < trainee.steps:
            raise UsageError(f"train.first_step {first} and last_step {last} must lie in 0..{trainee.steps - 1}")
        if feedback.terms > last - first + 1:
            raise UsageError(f"{feedback.terms} terms per rollout, but only {last - first + 1} steps to take them at")
        if feedback.weighted and (examples is None or examples.penalties is None):
            raise UsageError("train.pretraining_images is 0, and reward-weighted denoising learns from such images")
        self._models, self._trainee, self._rewards, self._feedback = models, trainee, rewards, feedback
        self._prompts, self._examples = prompts, examples

    def trained(self) -> Mapping[str, Parameter]:
        return self._trainee.trained()

    def save(self, folder: Path) -> None:
        self._trainee.save(folder)

    def sample(self) -> tuple[Image.Image, dict[str, float]]:
        """Images of the first prompts by the present weights, a row each, and what they look like."""
        prompts = list(dict.fromkeys(self._prompts))[:_SAMPLED]
        requests = [Request(prompt, seed) for prompt in prompts for seed in range(_SEEDS)]
        drawn = self._trainee.generate(requests)
        images = [image for image in drawn if not isinstance(image, RecordError)]
        if wrong := next((image for image in drawn if isinstance(image, RecordError)), None):
            raise RealignError(f"the samples cannot be drawn: {wrong}; start from an earlier checkpoint")
        rows = [images[i : i + _SEEDS] for i in range(0, len(images), _SEEDS)]
        arrays = np.stack([np.stack([np.asarray(image) for image in row]) for row in rows])
        exact = captions(self._models, images, [request.prompt for request in requests])
        reward = float(np.mean([caption.reward for caption in exact]))
        return grid(rows, prompts), {"caption_reward": reward, **appearance(arrays)}

    def collapsed(self, now: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
        return collapsed(now, before)

    def terms(self, step: int, index: int) -> Iterator[Callable[[], Loss]]:
        """Functions that build the losses of micro-batch `index` of optimiser step `step`; their sum is the loss.

        Each graph can be walked back and freed before the next is built. Consume them in order: a rollout goes on from
        one reward term to the next.
        """
        feedback, examples = self._feedback, self._examples
        draw = np.random.default_rng([feedback.seed, step, index])
        if feedback.weighted and examples is not None:
            yield self._denoising_term("reward", examples, draw, self._shares)
            return
        by_turns = feedback.combine == "alternate" and examples is not None
        if not by_turns or step % 2 == 0:
            yield from self._reward_terms(self._next_prompts(step, index), draw)
        if examples is not None and (not by_turns or step % 2 == 1):
            yield self._denoising_term("pretraining", examples, draw)

    def _next_prompts(self, step: int, index: int) -> list[str]:
        """The micro-batch's part of the prompts, which are gone through in a new order each time."""
        feedback, count = self._feedback, len(self._prompts)
        start = (step * feedback.micro_batches + index) * feedback.batch_size
        chosen = []
        for position in range(start, start + feedback.batch_size):
            epoch, place = divmod(position, count)
            chosen.append(self._prompts[_order(count, feedback.seed, epoch)[place]])
        return chosen

    @cached_property
    def _shares(self) -> NDArray[np.float64]:
        assert self._examples is not None and self._examples.penalties is not None
        return example_shares(self._examples.penalties, self._feedback.temperature).numpy()

    def _denoising_term(
        self, name: str, examples: Examples, draw: np.random.Generator, shares: NDArray[np.float64] | None = None
    ) -> Callable[[], Loss]:
        """The loss of diffusion training: L_pre, or with `shares` reward-weighted denoising (Lee et al. 2023)."""

        def term() -> Loss:
            chosen = draw.choice(len(examples.prompts), size=self._feedback.batch_size, p=shares)
            embeddings = self._trainee.embed([examples.prompts[i] for i in chosen])
            latents = examples.latents[torch.from_numpy(chosen)].to(embeddings)
            value = self._trainee.denoising_loss(latents, embeddings, int(draw.integers(2**62))).mean()
            return Loss(value, {f"loss/{name}": value.item()})

        return term

    def _reward_terms(self, prompts: Sequence[str], draw: np.random.Generator) -> Iterator[Callable[[], Loss]]:
        """Eq. 5 as in ImageReward: to a random late step without gradient, from there to x_0' in one step with it."""
        feedback, at = self._feedback, 0
        embeddings = self._trainee.embed(prompts)
        latents = self._trainee.noise(draw.integers(2**62, size=len(prompts)).tolist())
        steps = np.arange(feedback.first_step, feedback.last_step + 1)
        for step in sorted(draw.choice(steps, size=feedback.terms, replace=False).tolist()):
            latents = self._trainee.advance(latents, embeddings, at, step)
            at = step

            def term(latents: Tensor = latents, step: int = step, seed: int = int(draw.integers(2**62))) -> Loss:
                pixels = self._trainee.decode(self._trainee.clean(latents, embeddings, step))
                penalty, log = penalise(self._rewards, feedback.rewards, pixels, prompts, seed)
                value = feedback.scale * penalty.mean()
                exact = captions(self._models, pictures(pixels), prompts)
                log |= {"loss/reward": value.item(), "caption_reward": float(np.mean([c.reward for c in exact]))}
                return Loss(value / feedback.terms, log)

            yield term


def pictures(pixels: Tensor) -> list[Image.Image]:
    """PIL images of float pixels (B, 3, H, W) in [0, 1]."""
    arrays = (pixels.detach().float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]


@cache
def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)
