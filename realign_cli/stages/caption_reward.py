"""Image -> what the captioner sees -> caption reward (Eq. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from realign_cli.equations.reward import caption_reward
from realign_cli.records import Caption, Record
from realign_cli.stages.base import Item, Outcome

if TYPE_CHECKING:
    from PIL.Image import Image

    from realign_cli.errors import RecordError
    from realign_cli.roles import Models


class CaptionReward:
    """Captions each image and rewards the caption; adds 'caption'."""

    name, needs_image = "caption-reward", True
    requires: dict[str, str] = {}
    sections = ("captioner", "text_encoder")

    def __init__(self, models: Models) -> None:
        self._models = models

    def is_done(self, record: Record) -> bool:
        return record.caption is not None

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        images = [item.image for item in items if item.image]
        return [
            Outcome({"caption": caption})
            for caption in captions(self._models, images, [item.record.text for item in items])
        ]


def captions(models: Models, images: Sequence[Image], prompts: Sequence[str]) -> list[Caption]:
    """Caption each image and reward the caption by its closeness to the prompt."""
    texts = models.captioner.caption(images)
    rewards = caption_reward(models.text_encoder.encode(texts), models.text_encoder.encode(prompts))
    return [Caption(text=text, reward=round(float(r), 4)) for text, r in zip(texts, rewards, strict=True)]
