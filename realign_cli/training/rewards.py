"""The rewards of the coarse stage: float pixels and their prompts in, one differentiable reward per image out.

A reward is built as `Reward(models, **options)` and satisfies `roles.Reward`. Its gradient, not only its value, is what
training follows: see `CaptionReward`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from PIL import Image

from realign_cli.equations.reward import caption_reward, hinge, score_function
from realign_cli.errors import UsageError
from realign_cli.roles import DifferentiableMetric, Models, Reward
from realign_cli.stages.caption_reward import captions

if TYPE_CHECKING:
    from torch import Tensor

    from realign_cli.roles import Detection, NounPhrase

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"a": 1, "an": 1} | {word: number for number, word in enumerate(_WORDS, 1)}
Estimator = Literal["reinforce", "likelihood", "exact"]


class CaptionReward:
    """Eq. 4, whose caption is decoded text and so has no gradient of its own, with a choice of what stands in for it.

    - "reinforce": the value is the mean caption reward of `samples` captions drawn from the captioner, the gradient an
      unbiased estimate of that of the expected caption reward (score function with a leave-one-out baseline, Kool et
      al. 2019), which reaches the pixels through the captioner's log-likelihood.
    - "likelihood": the mean log-likelihood per token of the prompt itself, as in CoMat (Jiang et al. 2024): another
      objective with less variance.
    - "exact": Eq. 4 itself, of the captioner's own caption, without a gradient.
    """

    margin = 1.0

    def __init__(self, models: Models, *, estimator: Estimator = "reinforce", samples: int = 4) -> None:
        self._models, self._estimator, self._samples = models, estimator, samples

    def __call__(self, pixels: Tensor, prompts: Sequence[str], seed: int) -> Tensor:
        captioner, encoder = self._models.captioner, self._models.text_encoder
        if self._estimator == "likelihood":
            total, length = captioner.log_likelihood(pixels, [[prompt] for prompt in prompts])
            return (total / length)[:, 0]
        if self._estimator == "exact":
            found = captions(self._models, to_pil(pixels), prompts)
            return pixels.new_tensor([caption.reward for caption in found])
        drawn = captioner.sample(pixels.detach(), self._samples, seed)
        read = encoder.encode([caption for group in drawn for caption in group])
        rewards = caption_reward(read.view(len(prompts), self._samples, -1), encoder.encode(prompts)[:, None])
        total, _ = captioner.log_likelihood(pixels, drawn)
        return score_function(rewards, total)


class SimilarityReward:
    """The cosine of image and prompt by one of the evaluation's models: the CLIP and BLIP rewards of Table 3."""

    margin = 1.0

    def __init__(self, models: Models, *, judge: str) -> None:
        found = models.metric(judge)
        if not isinstance(found, DifferentiableMetric):
            raise UsageError(f"[{judge}] is judged by a {type(found).__name__}, which gives no gradient to train by")
        self._judge = found

    def __call__(self, pixels: Tensor, prompts: Sequence[str], seed: int) -> Tensor:
        return self._judge.similarity(pixels, prompts)


class ColumnReward:
    """A column of one of the evaluation's metrics, such as BLIP's matching: a number without a gradient."""

    margin = 1.0

    def __init__(self, models: Models, *, judge: str, column: str) -> None:
        self._metric, self._column = models.metric(judge), column

    def __call__(self, pixels: Tensor, prompts: Sequence[str], seed: int) -> Tensor:
        values = self._metric.measure(to_pil(pixels), prompts)[self._column]
        return pixels.new_tensor([0.0 if value is None else value for value in values])


class CountReward:
    """Minus how far an image is from the numbers of things that its prompt asks for, as a detector counts them.

    The mean over the kinds of things that a prompt names of |found - asked|: "a red circle and a blue circle" asks for
    two circles. Where a phrase has no number ("the circles"), one or more are as good. A number without a gradient.
    """

    margin = 0.0

    def __init__(self, models: Models) -> None:
        self._models = models

    def __call__(self, pixels: Tensor, prompts: Sequence[str], seed: int) -> Tensor:
        asked = [
            _asked(prompt, phrases) for prompt, phrases in zip(prompts, self._models.parser.parse(prompts), strict=True)
        ]
        found = self._models.detector.detect(to_pil(pixels), [list(kinds) for kinds in asked])
        return pixels.new_tensor([_off(one, boxes) for one, boxes in zip(asked, found, strict=True)])


def _asked(prompt: str, phrases: Sequence[NounPhrase]) -> dict[str, int | None]:
    """How many of each kind a prompt asks for; None: some."""
    asked: dict[str, int | None] = {}
    for phrase in phrases:
        kind = prompt[slice(*phrase.head)]
        words = prompt[phrase.span[0] : phrase.head[0]].lower().split()
        number = next((n for word in words if (n := _number(word)) is not None), None)
        before = asked.get(kind, 0)
        asked[kind] = None if number is None or before is None else before + number
    return asked


def _number(word: str) -> int | None:
    return int(word) if word.isdecimal() else _NUMBERS.get(word)


def _off(asked: Mapping[str, int | None], boxes: Sequence[Detection]) -> float:
    differences = []
    for kind, number in asked.items():
        found = sum(one.label == kind for one in boxes)
        differences.append(max(0, 1 - found) if number is None else abs(found - number))
    return -sum(differences) / len(differences) if differences else 0.0


def penalise(
    rewards: Mapping[str, Reward], weights: Mapping[str, float], pixels: Tensor, prompts: Sequence[str], seed: int
) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum of the rewards' hinges (B,), and each mean reward for the log.

    Raises:
        UsageError: pixels with a gradient get a reward without one.
    """
    penalty, log = pixels.new_zeros(len(prompts)), {}
    for name, weight in weights.items():
        reward = rewards[name](pixels, prompts, seed)
        if pixels.requires_grad and not reward.requires_grad:
            raise UsageError(f"--reward {name} has a value and no gradient to follow; it goes with --estimator nft")
        penalty = penalty + weight * hinge(reward, rewards[name].margin)
        log[f"reward/{name}"] = reward.mean().item()
    return penalty, log


def to_pil(pixels: Tensor) -> list[Image.Image]:
    """PIL images of float pixels (B, 3, H, W) in [0, 1]."""
    arrays = (pixels.detach().float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]
