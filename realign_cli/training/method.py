"""What every method of training the generator shares: prompts in turn, a sheet of samples, and the model that is kept.

Everything drawn at random comes from the micro-batch's own seed, so that a run can be continued at any step, and the
same micro-batches on more processes are the same computation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from realign_cli.equations.collapse import appearance, collapsed, hacked
from realign_cli.errors import RealignError, RecordError
from realign_cli.pictures import grid
from realign_cli.roles import Request
from realign_cli.stages.caption_reward import captions
from realign_cli.training.rewards import to_pil

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor
    from torch.nn import Parameter

    from realign_cli.roles import Models, Reward, TrainableGenerator
    from realign_cli.settings import Training
    from realign_cli.training.examples import Examples

_SAMPLED, _SEEDS = 8, 3  # prompts on the sheet of samples, and images of each prompt
_JUDGES, _JUDGE = ("clip", "blip"), "judge/"  # metrics to judge by, the first that is not trained on; how it is logged
Averaged = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Loss:
    """A scalar with gradient, and numbers for the log."""

    value: Tensor
    log: Mapping[str, float]


class GeneratorTraining(ABC):
    """Teaches a generator by rewards, micro-batch by micro-batch.

    Args:
        models: the captioner and the text encoder of the exact Eq. 4, which is logged beside what is trained on.
        generator: one whose sampler takes `training.sampler_steps` steps.
        rewards: one for each name in `training.rewards`.
        training: section `train` of a preset.
        prompts: what images and samples are drawn for.
        examples: clean latents, for methods that denoise.
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

    @abstractmethod
    def terms(self, step: int, index: int, averaged: Averaged) -> Iterator[Callable[[], Loss]]:
        """Functions that build the losses of micro-batch `index` of optimiser step `step`; their sum is the loss.

        Each graph can be walked back and freed before the next is built. Consume them in order: what is drawn goes on
        from one term to the next. While a block of `averaged()` lasts, the weights are their average.
        """

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
        return grid(rows, prompts), self._judged(images, [request.prompt for request in requests]) | appearance(arrays)

    def collapsed(self, now: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
        judges = [name for name in now if name.startswith(_JUDGE)]
        if "caption" not in self._rewards:
            judges.append("caption_reward")
        return collapsed(now, before) + hacked(now, before, judges)

    def _judged(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, float]:
        """The exact Eq. 4, what a metric says that is not trained on, and how many things are found in an image."""
        models = self._models
        rewards = [caption.reward for caption in captions(models, images, prompts)]
        judge = next((name for name in _JUDGES if name not in self._rewards), _JUDGES[0])
        columns = models.metric(judge).measure(images, prompts)
        labels = [[tag.label for tag in tags] for tags in models.tagger.tag(images)]
        things = [len(boxes) for boxes in models.detector.detect(images, labels)]
        judged = {_JUDGE + name: [v for v in column if v is not None] for name, column in columns.items()}
        numbers: dict[str, Sequence[float]] = {"caption_reward": rewards, "things": things, **judged}
        return {name: sum(values) / len(values) for name, values in numbers.items() if values}

    def _exact(self, pixels: Tensor, prompts: Sequence[str]) -> float:
        """The mean of the exact Eq. 4 over a micro-batch, for the log."""
        return float(np.mean([caption.reward for caption in captions(self._models, to_pil(pixels), prompts)]))

    def _draw(self, step: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, step, index])

    def _next_prompts(self, step: int, index: int, count: int) -> list[str]:
        """The micro-batch's `count` prompts; all prompts are gone through, in a new order each time."""
        start, known = (step * self._micro_batches + index) * count, len(self._prompts)
        chosen = []
        for position in range(start, start + count):
            epoch, place = divmod(position, known)
            chosen.append(self._prompts[_order(known, self._seed, epoch)[place]])
        return chosen


@cache
def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)
