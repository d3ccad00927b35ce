"""Reward feedback learning (Eq. 5, Xu et al. 2023): the rewards' gradient goes through the image into the generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from realign_cli.training.denoising import denoising_term
from realign_cli.training.method import GeneratorTraining, Loss
from realign_cli.training.rewards import penalise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from realign_cli.training.method import Averaged


class RewardFeedback(GeneratorTraining):
    """The terms of Eq. 5: rewards of images on their way from noise, and L_pre where there are examples."""

    def terms(self, step: int, index: int, averaged: Averaged) -> Iterator[Callable[[], Loss]]:
        training, examples, draw = self._training, self._examples, self._draw(step, index)
        by_turns = training.combine == "alternate" and examples is not None
        if not by_turns or step % 2 == 0:
            yield from self._reward_terms(self._next_prompts(step, index, training.micro_batch_size), draw)
        if examples is not None and (not by_turns or step % 2 == 1):
            yield denoising_term("pretraining", self._generator, examples, training.micro_batch_size, draw)

    def _reward_terms(self, prompts: Sequence[str], draw: np.random.Generator) -> Iterator[Callable[[], Loss]]:
        """Eq. 5 as in ImageReward: to a random late step without gradient, from there to x_0' in one step with it."""
        training, at = self._training, 0
        embeddings = self._generator.embed(prompts)
        latents = self._generator.initial_noise(draw.integers(2**62, size=len(prompts)).tolist())
        steps = np.arange(training.first_step, training.last_step + 1)
        for step in sorted(draw.choice(steps, size=training.terms_per_rollout, replace=False).tolist()):
            latents = self._generator.denoise(latents, embeddings, at, step)
            at = step

            def term(latents: Tensor = latents, step: int = step, seed: int = int(draw.integers(2**62))) -> Loss:
                times = torch.full((len(latents),), self._generator.time(step), device=latents.device)
                pixels = self._generator.decode(self._generator.predict_x0(latents, embeddings, times))
                loss = self._hinge_loss(pixels, prompts, seed)
                return Loss(loss.value / training.terms_per_rollout, loss.log)

            yield term

    def _hinge_loss(self, pixels: Tensor, prompts: Sequence[str], seed: int) -> Loss:
        penalty, log = penalise(self._rewards, self._training.rewards, pixels, prompts, seed)
        value = self._training.reward_weight * penalty.mean()
        return Loss(value, log | {"loss/reward": value.item(), "caption_reward": self._exact(pixels, prompts)})


class DirectReward(RewardFeedback):
    """DRaFT-K (Clark et al. 2024): from `first_step` to its end the gradient goes through the sampler itself."""

    def _reward_terms(self, prompts: Sequence[str], draw: np.random.Generator) -> Iterator[Callable[[], Loss]]:
        generator, first = self._generator, self._training.first_step
        embeddings = generator.embed(prompts)
        noise = generator.initial_noise(draw.integers(2**62, size=len(prompts)).tolist())
        latents = generator.denoise(noise, embeddings, 0, first)

        def term() -> Loss:
            clean = generator.denoise(latents, embeddings, first, generator.steps, with_gradient=True)
            return self._hinge_loss(generator.decode(clean), prompts, int(draw.integers(2**62)))

        yield term
