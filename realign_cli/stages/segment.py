"""Image and objects -> boxes and masks: each object's label is found in the image, then cut out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from realign_cli.pictures import mask_picture, overlay
from realign_cli.stages.base import Item, Outcome

if TYPE_CHECKING:
    from PIL.Image import Image

    from realign_cli.errors import RecordError
    from realign_cli.records import Mask, Object, Record
    from realign_cli.roles import Models
from realign_cli.stages.run_lengths import decode, encode


class Segment:
    """Finds each object that may appear, and its mask; completes 'objects'."""

    name, needs_image = "segment", True
    requires = {"objects": "score"}
    sections = ("detector", "mask_model")

    def __init__(self, models: Models) -> None:
        self._models = models

    def is_done(self, record: Record) -> bool:
        return record.objects is not None and all(one.boxes is not None for one in record.objects)

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        images = [item.image for item in items if item.image]
        objects = [item.record.objects or [] for item in items]
        labels = [list(dict.fromkeys(o.label for o in found if o.likelihood > 0)) for found in objects]
        detections = self._models.detector.detect(images, labels)
        masks = self._models.mask_model.masks(images, [[d.box for d in found] for found in detections])
        outcomes: list[Outcome | RecordError] = []
        for image, wanted, found, cut in zip(images, objects, detections, masks, strict=True):
            complete = []
            for one in wanted:
                own = [i for i, d in enumerate(found) if d.label == one.label and one.likelihood > 0]
                union = np.logical_or.reduce(cut[own]) if own else None
                complete.append(
                    one.model_copy(
                        update={
                            "boxes": [found[i].box for i in own],
                            "mask": encode(union) if union is not None and union.any() else None,
                        }
                    )
                )
            outcomes.append(Outcome({"objects": complete}, pictures=_pictures(image, complete)))
        return outcomes


def _pictures(image: Image, objects: Sequence[Object]) -> Mapping[str, Callable[[], Image]]:
    masks = [one.mask for one in objects if one.mask]
    drawings = {f"mask-{i}": partial(_mask_picture, image, mask) for i, mask in enumerate(masks)}
    return drawings | {"overlay": partial(_overlay, image, masks)}


def _mask_picture(image: Image, mask: Mask) -> Image:
    return mask_picture(decode(mask, image))


def _overlay(image: Image, masks: Sequence[Mask]) -> Image:
    return overlay(image, [decode(mask, image) for mask in masks])
