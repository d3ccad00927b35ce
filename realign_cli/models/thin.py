"""Very thin images, as scraped sets have them (rules, spacers), before what keeps their aspect ratio resizes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def squashed(image: Image, ratio: int) -> Image:
    """The image, if its longer side is at most `ratio` times the shorter; else with the longer side made that long.

    A model's own resizing would come to a side of no pixels, or where the shorter side decides to gigabytes.
    """
    longest = ratio * min(image.size)
    if max(image.size) <= longest:
        return image
    return image.resize((min(image.width, longest), min(image.height, longest)))
