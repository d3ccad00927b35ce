"""The loss of diffusion training on given images: L_pre, and reward-weighted denoising (Lee et al. 2023)."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from realign_cli.equations.reward import sampling_weights
from realign_cli.training.method import GeneratorTraining, Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from realign_cli.roles import TrainableGenerator
    from realign_cli.training.examples import Examples
    from realign_cli.training.method import Averaged


class WeightedDenoising(GeneratorTraining):
    """Teaches images that were judged before: those of the data, else the generator's own. It needs their penalties."""

    def terms(self, step: int, index: int, averaged: Averaged) -> Iterator[Callable[[], Loss]]:
        assert self._examples is not None
        size, draw = self._training.micro_batch_size, self._draw(step, index)
        yield denoising_term("reward", self._generator, self._examples, size, draw, self._shares)

    @cached_property
    def _shares(self) -> NDArray[np.float64]:
        assert self._examples is not None and self._examples.penalties is not None
        return sampling_weights(self._examples.penalties, self._training.temperature).numpy()


def denoising_term(
    name: str,
    generator: TrainableGenerator,
    examples: Examples,
    count: int,
    draw: np.random.Generator,
    shares: NDArray[np.float64] | None = None,
) -> Callable[[], Loss]:
    """The loss of diffusion training of `count` examples: L_pre; or with `shares`, which say how often each is drawn.

    The log calls it `name`.
    """

    def term() -> Loss:
        chosen = draw.choice(len(examples.prompts), size=count, p=shares)
        rows = torch.from_numpy(chosen)
        framings = None if examples.framings is None else examples.framings[rows]
        embeddings = generator.embed([examples.prompts[i] for i in chosen], framings)
        latents = examples.latents[rows].to(embeddings.tokens)
        value = generator.denoising_loss(latents, embeddings, int(draw.integers(2**62))).mean()
        return Loss(value, {f"loss/{name}": value.item()})

    return term
