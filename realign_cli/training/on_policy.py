"""Training from prompts alone: the generator draws several images of each, and the rewards judge them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from realign_cli.equations.policy import group_advantages, negative_aware_loss, optimality
from realign_cli.stages.caption_reward import captions
from realign_cli.training.method import GeneratorTraining, Loss, to_pil
from realign_cli.training.rewards import penalise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from realign_cli.training.method import Averaged


class NegativeAware(GeneratorTraining):
    """Negative-aware fine-tuning on the forward process (DiffusionNFT, Zheng et al. 2025, arXiv 2509.16117).

    The old policy, which draws the images and lies between the implicit good and bad ones, is the average of the
    weights that the run keeps anyway; Zheng et al. let it follow in the same way. Images are drawn with guidance and
    learnt without: their advantages add up to nothing, so that guidance is not learnt by itself. No gradient goes
    through sampler, autoencoder or rewards, which may be anything that tells two images apart.
    """

    def terms(self, step: int, index: int, averaged: Averaged) -> Iterator[Callable[[], Loss]]:
        training, draw = self._training, self._draw(step, index)
        group = training.images_per_prompt
        prompts = np.repeat(self._next_prompts(step, index, training.micro_batch_size // group), group).tolist()
        noise = self._generator.initial_noise(draw.integers(2**62, size=len(prompts)).tolist())
        with averaged(), torch.no_grad():
            embeddings = self._generator.embed(prompts)
            clean = self._generator.denoise(noise, embeddings, 0, self._generator.steps)
            pixels = self._generator.decode(clean)
            penalty, log = penalise(self._rewards, training.rewards, pixels, prompts, int(draw.integers(2**62)))
            advantages = group_advantages(-penalty.view(-1, group)).flatten()
            learnt = advantages.view(-1, group).any(1).repeat_interleave(group)  # the others teach nothing
            log |= self._exact(pixels, prompts) | {"images": len(prompts), "learnt": float(learnt.float().mean())}
            clean, embeddings, advantages = clean[learnt], embeddings[learnt], advantages[learnt]
            tries = [self._noised(clean, draw) for _ in range(training.terms_per_rollout if len(clean) else 0)]
            old = [self._generator.predict_x0(noisy, embeddings, t, guided=False) for noisy, t in tries]
        if not tries:  # a loss without an effect, so that the log has what was drawn
            yield lambda: Loss(next(iter(self.trainable_parameters().values())).sum() * 0, log)
        for (noisy, times), predicted in zip(tries, old, strict=True):

            def term(noisy: Tensor = noisy, times: Tensor = times, old: Tensor = predicted) -> Loss:
                new = self._generator.predict_x0(noisy, embeddings, times, guided=False)
                good = optimality(advantages, training.advantage_limit)
                losses = negative_aware_loss(clean, old, new, good, training.mix)
                value = losses.sum() / len(prompts) / training.terms_per_rollout
                moved = (new.detach() - old).square().mean()
                return Loss(value, {**log, "loss/reward": value.item(), "moved": moved.item()})

            yield term

    def _noised(self, clean: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The images with fresh noise, each at a time of its own between those of the first and the last step."""
        training, generator = self._training, torch.Generator().manual_seed(int(draw.integers(2**62)))
        latest, earliest = (self._generator.time(at) for at in (training.first_step, training.last_step))
        times = torch.randint(earliest, latest + 1, (len(clean),), generator=generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        return self._generator.add_noise(clean, noise, times), times

    def _exact(self, pixels: Tensor, prompts: list[str]) -> dict[str, float]:
        """The exact Eq. 4, for the log."""
        found = captions(self._models, to_pil(pixels), prompts)
        return {"caption_reward": float(np.mean([caption.reward for caption in found]))}
