"""Prompts -> losses of reward feedback learning (Eq. 5, Xu et al. 2023), one micro-batch at a time.

Everything drawn at random comes from the micro-batch's own seed, so that a run can be continued at any step, and the
same micro-batches on more processes are the same computation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from realign_cli.equations.collapse import appearance, collapsed
from realign_cli.equations.reward import sampling_weights
from realign_cli.errors import RealignError, RecordError
from realign_cli.pictures import grid
from realign_cli.roles import Models, Request, Reward, TrainableGenerator
from realign_cli.stages.caption_reward import captions
from realign_cli.training.rewards import penalise

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch.nn import Parameter

    from realign_cli.settings import Training
    from realign_cli.training.examples import Examples

_SAMPLED, _SEEDS = 8, 3  # prompts on the sheet of samples, and images of each prompt


@dataclass(frozen=True)
class Loss:
    """A scalar with gradient, and numbers for the log."""

    value: Tensor
    log: Mapping[str, float]


class RewardFeedback:
    """The terms of Eq. 5, micro-batch by micro-batch.

    Args:
        models: the captioner and the text encoder of the exact Eq. 4, which is logged beside what is trained on.
        generator: one whose sampler takes `training.sampler_steps` steps.
        rewards: one for each name in `training.rewards`.
        training: section `train` of a preset.
        prompts: what reward terms and samples are drawn for.
        examples: for L_pre; without them there is no L_pre. Reward-weighted denoising needs them, with penalties.
        micro_batches: how many make an optimiser step, over all processes.
        seed: decides, with the place of a micro-batch, everything that is drawn for it.
    """

    def __init__(
        self,
        models: Models,
        generator: TrainableGenerator,
        rewards: Mapping[str, Reward],
        training: Training,
        prompts: Sequence[str],
        examples: Examples | None,
        *,
        micro_batches: int,
        seed: int,
    ) -> None:
        self._models, self._generator, self._rewards, self._training = models, generator, rewards, training
        self._prompts, self._examples = prompts, examples
        self._micro_batches, self._seed = micro_batches, seed

    def trainable_parameters(self) -> Mapping[str, Parameter]:
        return self._generator.trainable_parameters()

    def save(self, folder: Path) -> None:
        self._generator.save(folder)

    def sample(self) -> tuple[Image.Image, dict[str, float]]:
        """Images of the first prompts by the present weights, a row each, and what they look like."""
        prompts = list(dict.fromkeys(self._prompts))[:_SAMPLED]
        requests = [Request(prompt, seed) for prompt in prompts for seed in range(_SEEDS)]
        drawn = self._generator.generate(requests)
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
        training, examples = self._training, self._examples
        draw = np.random.default_rng([self._seed, step, index])
        if training.estimator == "weighted":
            assert examples is not None
            yield self._denoising_term("reward", examples, draw, self._shares)
            return
        by_turns = training.combine == "alternate" and examples is not None
        if not by_turns or step % 2 == 0:
            yield from self._reward_terms(self._next_prompts(step, index), draw)
        if examples is not None and (not by_turns or step % 2 == 1):
            yield self._denoising_term("pretraining", examples, draw)

    def _next_prompts(self, step: int, index: int) -> list[str]:
        """The micro-batch's part of the prompts, which are gone through in a new order each time."""
        batch_size, count = self._training.micro_batch_size, len(self._prompts)
        start = (step * self._micro_batches + index) * batch_size
        chosen = []
        for position in range(start, start + batch_size):
            epoch, place = divmod(position, count)
            chosen.append(self._prompts[_order(count, self._seed, epoch)[place]])
        return chosen

    @cached_property
    def _shares(self) -> NDArray[np.float64]:
        assert self._examples is not None and self._examples.penalties is not None
        return sampling_weights(self._examples.penalties, self._training.temperature).numpy()

    def _denoising_term(
        self, name: str, examples: Examples, draw: np.random.Generator, shares: NDArray[np.float64] | None = None
    ) -> Callable[[], Loss]:
        """The loss of diffusion training: L_pre, or with `shares` reward-weighted denoising (Lee et al. 2023)."""

        def term() -> Loss:
            chosen = draw.choice(len(examples.prompts), size=self._training.micro_batch_size, p=shares)
            embeddings = self._generator.embed([examples.prompts[i] for i in chosen])
            latents = examples.latents[torch.from_numpy(chosen)].to(embeddings)
            value = self._generator.denoising_loss(latents, embeddings, int(draw.integers(2**62))).mean()
            return Loss(value, {f"loss/{name}": value.item()})

        return term

    def _reward_terms(self, prompts: Sequence[str], draw: np.random.Generator) -> Iterator[Callable[[], Loss]]:
        """Eq. 5 as in ImageReward: to a random late step without gradient, from there to x_0' in one step with it."""
        training, weights, at = self._training, self._training.rewards, 0
        embeddings = self._generator.embed(prompts)
        latents = self._generator.initial_noise(draw.integers(2**62, size=len(prompts)).tolist())
        steps = np.arange(training.first_step, training.last_step + 1)
        for step in sorted(draw.choice(steps, size=training.terms_per_rollout, replace=False).tolist()):
            latents = self._generator.denoise(latents, embeddings, at, step)
            at = step

            def term(latents: Tensor = latents, step: int = step, seed: int = int(draw.integers(2**62))) -> Loss:
                pixels = self._generator.decode(self._generator.predict_x0(latents, embeddings, step))
                penalty, log = penalise(self._rewards, weights, pixels, prompts, seed)
                value = training.reward_weight * penalty.mean()
                exact = captions(self._models, to_pil(pixels), prompts)
                log |= {"loss/reward": value.item(), "caption_reward": float(np.mean([c.reward for c in exact]))}
                return Loss(value / training.terms_per_rollout, log)

            yield term


def to_pil(pixels: Tensor) -> list[Image.Image]:
    """PIL images of float pixels (B, 3, H, W) in [0, 1]."""
    arrays = (pixels.detach().float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]


@cache
def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)
