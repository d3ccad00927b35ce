"""Prompts -> losses of reward feedback learning (Eq. 5, Xu et al. 2023), one micro-batch at a time.

Everything drawn at random comes from the micro-batch's own seed, so that a run can be continued at any step, and the
same micro-batches on more processes are the same computation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from realign_cli.equations.collapse import appearance, collapsed
from realign_cli.equations.reward import hinge, reward_weight
from realign_cli.errors import UsageError
from realign_cli.roles import Models, Request, Reward, Trainee
from realign_cli.stages.caption_reward import captions
from realign_cli.stages.pictures import grid

if TYPE_CHECKING:
    from pathlib import Path

    from torch.nn import Parameter

_SAMPLED, _SEEDS = 8, 3  # prompts on the sample sheet, and images of each


@dataclass(frozen=True)
class Feedback:
    """The numbers of Eq. 5, from section `train` of a preset and the command line."""

    rewards: Mapping[str, float]  # the weight of each
    weighted: bool  # reward-weighted denoising; else the rewards' gradients go through the image
    scale: float  # lambda
    temperature: float  # of the weights of reward-weighted denoising, in units of reward
    first_step: int  # of the sampler, at which a reward term may be taken, counted from 0
    last_step: int
    terms: int  # reward terms per rollout
    combine: Literal["sum", "alternate"]  # the reward terms and L_pre: in every optimiser step, or by turns
    batch_size: int  # of a micro-batch
    micro_batches: int  # in an optimiser step
    seed: int


@dataclass(frozen=True)
class Examples:
    """Clean latents (N, C, h, w) and their prompts, for L_pre."""

    latents: Tensor
    prompts: Sequence[str]


@dataclass(frozen=True)
class Loss:
    """A scalar with gradient, and numbers for the log."""

    value: Tensor
    log: Mapping[str, float]


class RewardFeedback:
    """The terms of Eq. 5, micro-batch by micro-batch; without `examples` there is no L_pre.

    Raises:
        UsageError: fewer sampler steps to choose from than reward terms to take, or no such steps.
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
        if not feedback.weighted and feedback.terms > last - first + 1:
            raise UsageError(f"{feedback.terms} terms per rollout, but only {last - first + 1} steps to take them at")
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
        images = self._trainee.generate(requests)
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
        feedback = self._feedback
        draw = np.random.default_rng([feedback.seed, step, index])
        by_turns = feedback.combine == "alternate" and self._examples is not None
        if not by_turns or step % 2 == 0:
            yield from self._reward_terms(self._next_prompts(step, index), draw)
        if self._examples is not None and (not by_turns or step % 2 == 1):
            yield self._pretraining_term(self._examples, draw)

    def _next_prompts(self, step: int, index: int) -> list[str]:
        """The micro-batch's part of the prompts, which are gone through in a new order each time."""
        feedback, count = self._feedback, len(self._prompts)
        start = (step * feedback.micro_batches + index) * feedback.batch_size
        chosen = []
        for position in range(start, start + feedback.batch_size):
            epoch, place = divmod(position, count)
            chosen.append(self._prompts[_order(count, feedback.seed, epoch)[place]])
        return chosen

    def _pretraining_term(self, examples: Examples, draw: np.random.Generator) -> Callable[[], Loss]:
        def term() -> Loss:
            chosen = draw.integers(len(examples.prompts), size=self._feedback.batch_size)
            embeddings = self._trainee.embed([examples.prompts[i] for i in chosen])
            latents = examples.latents[torch.from_numpy(chosen)].to(embeddings)
            value = self._trainee.denoising_loss(latents, embeddings, int(draw.integers(2**62))).mean()
            return Loss(value, {"loss/pretraining": value.item()})

        return term

    def _reward_terms(self, prompts: Sequence[str], draw: np.random.Generator) -> Iterator[Callable[[], Loss]]:
        embeddings = self._trainee.embed(prompts)
        latents = self._trainee.noise(draw.integers(2**62, size=len(prompts)).tolist())
        terms = self._weighted_terms if self._feedback.weighted else self._pixel_terms
        yield from terms(prompts, embeddings, latents, draw)

    def _pixel_terms(
        self, prompts: Sequence[str], embeddings: Tensor, latents: Tensor, draw: np.random.Generator
    ) -> Iterator[Callable[[], Loss]]:
        """Eq. 5 as in ImageReward: to a random late step without gradient, from there to x_0' in one step with it."""
        feedback, at = self._feedback, 0
        steps = np.arange(feedback.first_step, feedback.last_step + 1)
        for step in sorted(draw.choice(steps, size=feedback.terms, replace=False).tolist()):
            latents = self._trainee.advance(latents, embeddings, at, step)
            at = step

            def term(latents: Tensor = latents, step: int = step, seed: int = int(draw.integers(2**62))) -> Loss:
                pixels = self._trainee.decode(self._trainee.clean(latents, embeddings, step))
                penalty, log = self._penalty(pixels, prompts, seed)
                value = feedback.scale * penalty.mean()
                return Loss(value / feedback.terms, log | {"loss/reward": value.item()})

            yield term

    def _weighted_terms(
        self, prompts: Sequence[str], embeddings: Tensor, latents: Tensor, draw: np.random.Generator
    ) -> Iterator[Callable[[], Loss]]:
        """Reward-weighted denoising (Lee et al. 2023) of the model's own images: no gradient through the reward."""
        feedback = self._feedback
        latents = self._trainee.advance(latents, embeddings, 0, self._trainee.steps)
        with torch.no_grad():
            penalty, log = self._penalty(self._trainee.decode(latents), prompts, int(draw.integers(2**62)))
        weight = reward_weight(-penalty, 0.0, feedback.temperature)
        for seed in draw.integers(2**62, size=feedback.terms).tolist():

            def term(seed: int = seed) -> Loss:
                error = self._trainee.denoising_loss(latents, embeddings, seed)
                value = feedback.scale * (weight * error).mean()
                return Loss(value / feedback.terms, log | {"loss/reward": value.item(), "weight": weight.mean().item()})

            yield term

    def _penalty(self, pixels: Tensor, prompts: Sequence[str], seed: int) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum of the rewards' hinges (B,); logs each reward and, always, the exact Eq. 4."""
        penalty, log = pixels.new_zeros(len(prompts)), {}
        for name, weight in self._feedback.rewards.items():
            reward = self._rewards[name](pixels, prompts, seed)
            penalty = penalty + weight * hinge(reward, self._rewards[name].margin)
            log[f"reward/{name}"] = reward.mean().item()
        exact = captions(self._models, pictures(pixels), prompts)
        log["caption_reward"] = float(np.mean([caption.reward for caption in exact]))
        return penalty, log


def own_latents(trainee: Trainee, prompts: Sequence[str], batch_size: int, seed: int) -> Iterator[Tensor]:
    """Images of the model as it is, batch by batch: what L_pre holds it to where there are no real images."""
    seeds = np.random.default_rng(seed).integers(2**62, size=len(prompts)).tolist()
    for i in range(0, len(prompts), batch_size):
        noise = trainee.noise(seeds[i : i + batch_size])
        yield trainee.advance(noise, trainee.embed(prompts[i : i + batch_size]), 0, trainee.steps)


def real_latents(trainee: Trainee, images: Iterable[Image.Image], size: int) -> Iterator[Tensor]:
    """Real images, one by one, cut to a centred square of `size` pixels."""
    for image in images:
        pixels = np.asarray(ImageOps.fit(image, (size, size)), dtype=np.float32) / 255
        yield trainee.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None])


@cache
def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def pictures(pixels: Tensor) -> list[Image.Image]:
    """PIL images of float pixels (B, 3, H, W) in [0, 1]."""
    arrays = (pixels.detach().float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]
