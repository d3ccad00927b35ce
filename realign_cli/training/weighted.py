"""Reward-weighted denoising (Lee et al. 2023): the loss of diffusion training, on images drawn by their reward."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from realign_cli.equations.reward import sampling_weights
from realign_cli.training.examples import denoising_term
from realign_cli.training.method import GeneratorTraining, Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

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
