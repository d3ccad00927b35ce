"""Training from prompts alone: the generator draws several images of each, and the rewards judge them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from realign_cli.equations.policy import (
    group_advantages,
    negative_aware_loss,
    optimality,
    policy_gradient_loss,
    transition,
)
from realign_cli.training.method import GeneratorTraining, Loss
from realign_cli.training.rewards import penalise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from realign_cli.roles import Conditioning
    from realign_cli.training.method import Averaged


class _OnPolicy(GeneratorTraining):
    """Groups of images of one prompt, and by how much each is better than the others of its group."""

    def _grouped_prompts(self, step: int, index: int) -> list[str]:
        size, group = self._training.micro_batch_size, self._training.images_per_prompt
        return [prompt for prompt in self._next_prompts(step, index, size // group) for _ in range(group)]

    def _noise(self, count: int, draw: np.random.Generator) -> Tensor:
        return self._generator.initial_noise(draw.integers(2**62, size=count).tolist())

    def _advantages(
        self, clean: Tensor, prompts: Sequence[str], draw: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """The advantage of each image (B,), and numbers for the log.

        All of a group are 0 where the rewards tell none of its images from another.
        """
        pixels = self._generator.decode(clean)
        penalty, log = penalise(self._rewards, self._training.rewards, pixels, prompts, int(draw.integers(2**62)))
        advantages = group_advantages(-penalty.view(-1, self._training.images_per_prompt))
        known = log.get("reward/caption")  # which is the exact Eq. 4 here
        log |= {
            "caption_reward": self._exact(pixels, prompts) if known is None else known,
            "learnt": advantages.any(1).float().mean().item(),  # share of the prompts that teach something
        }
        return advantages.flatten(), log

    def _nothing(self, log: dict[str, float]) -> Loss:
        """A loss without an effect, so that the log has what was drawn."""
        return Loss(next(iter(self.trainable_parameters().values())).sum() * 0, log)


class NegativeAware(_OnPolicy):
    """Negative-aware fine-tuning on the forward process (DiffusionNFT, Zheng et al. 2025, arXiv 2509.16117).

    The old policy, which draws the images and lies between the implicit good and bad ones, is the average of the
    weights that the run keeps anyway; Zheng et al. let it follow in the same way. Images are drawn with guidance and
    learnt without: their advantages add up to nothing, so that guidance is not learnt by itself. No gradient goes
    through sampler, autoencoder or rewards, which may be anything that tells two images apart.
    """

    def terms(self, step: int, index: int, averaged: Averaged) -> Iterator[Callable[[], Loss]]:
        training, generator, draw = self._training, self._generator, self._draw(step, index)
        prompts = self._grouped_prompts(step, index)
        with averaged(), torch.no_grad():
            embeddings = generator.embed(prompts)
            clean = generator.denoise(self._noise(len(prompts), draw), embeddings, 0, generator.steps)
            advantages, log = self._advantages(clean, prompts, draw)
            teaching = advantages.view(-1, training.images_per_prompt).any(1)
            learnt = teaching.repeat_interleave(training.images_per_prompt)
            clean, embeddings, good = clean[learnt], embeddings[learnt], optimality(advantages[learnt], training.limit)
            tries = [self._noised(clean, draw) for _ in range(training.terms_per_rollout if len(clean) else 0)]
            old = [generator.predict_x0(noisy, embeddings, times, guided=False) for noisy, times in tries]
        if not tries:
            yield lambda: self._nothing(log)
        for (noisy, times), predicted in zip(tries, old, strict=True):

            def term(noisy: Tensor = noisy, times: Tensor = times, old: Tensor = predicted) -> Loss:
                new = generator.predict_x0(noisy, embeddings, times, guided=False)
                losses = negative_aware_loss(clean, old, new, good, training.mix)
                value = losses.sum() / len(prompts) / training.terms_per_rollout
                moved = (new.detach() - old).square().mean()
                return Loss(value, {**log, "loss/reward": value.item(), "moved": moved.item()})

            yield term

    def _noised(self, clean: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The images with fresh noise, at a time between those of the first and the last step; a group shares both.

        Their advantages add up to nothing, so that what their gradients have in common, which is most of them, cancels.
        """
        training, source = self._training, torch.Generator().manual_seed(int(draw.integers(2**62)))
        latest, earliest = (self._generator.time(at) for at in (training.first_step, training.last_step))
        size = training.images_per_prompt
        groups = len(clean) // size
        times = torch.randint(earliest, latest + 1, (groups,), generator=source).to(clean.device)
        noise = torch.randn((groups, *clean.shape[1:]), generator=source).to(clean)
        times, noise = times.repeat_interleave(size, 0), noise.repeat_interleave(size, 0)
        return self._generator.add_noise(clean, noise, times), times


class PolicyGradient(_OnPolicy):
    """The policy gradient over sampler steps (DDPO, Black et al. 2024), with the advantages of groups (Flow-GRPO).

    The sampler adds noise at each step (DDIM with eta = 1), so that a step is a Gaussian whose density has a gradient.
    Images are drawn by the weights in training and learnt from once, so that there is no ratio of policies to clip.
    """

    def terms(self, step: int, index: int, averaged: Averaged) -> Iterator[Callable[[], Loss]]:
        training, generator, draw = self._training, self._generator, self._draw(step, index)
        prompts = self._grouped_prompts(step, index)
        steps = np.arange(training.first_step, training.last_step + 1)
        chosen = set(draw.choice(steps, size=training.terms_per_rollout, replace=False).tolist())
        kept: list[tuple[int, Tensor, Tensor]] = []
        with torch.no_grad():
            embeddings, latents = generator.embed(prompts), self._noise(len(prompts), draw)
            for at in range(generator.steps):
                mean, deviation = self._step(latents, embeddings, at)
                after = mean + deviation * self._noise(len(prompts), draw)
                if at in chosen:
                    kept.append((at, latents, after))
                latents = after
            advantages, log = self._advantages(latents, prompts, draw)
        advantages = advantages.clamp(-training.limit, training.limit)
        if not advantages.any():
            yield lambda: self._nothing(log)
            return
        for at, before, after in kept:

            def term(at: int = at, before: Tensor = before, after: Tensor = after) -> Loss:
                mean, deviation = self._step(before, embeddings, at)
                value = policy_gradient_loss(after, mean, deviation, advantages).mean() / training.terms_per_rollout
                return Loss(value, {**log, "loss/reward": value.item()})

            yield term

    def _step(self, latents: Tensor, embeddings: Conditioning, at: int) -> tuple[Tensor, Tensor]:
        """Mean and deviation of what follows on `latents` at a sampler step."""
        generator = self._generator
        now, after = (torch.full((len(latents),), generator.time(i), device=latents.device) for i in (at, at + 1))
        clean = generator.predict_x0(latents, embeddings, now)
        return transition(latents, clean, generator.alphas(now).to(latents), generator.alphas(after).to(latents))
