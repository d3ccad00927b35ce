"""Masks as records keep them: COCO's run-length encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pycocotools import mask as coco

from realign_cli.errors import RecordError
from realign_cli.records import Mask

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


def encode(mask: NDArray[np.bool_]) -> Mask:
    """A bool (H, W) mask as COCO run lengths."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Mask(size=(int(rle["size"][0]), int(rle["size"][1])), counts=rle["counts"].decode("ascii"))


def decode(mask: Mask, image: Image) -> NDArray[np.bool_]:
    """The bool (H, W) array of a run-length mask of `image`.

    Raises:
        RecordError: the mask is of another size, or its run lengths do not fit into it.
    """
    if mask.size != (image.height, image.width):  # also keeps pycocotools from sizes that crash it
        sizes = f"{mask.size[1]}x{mask.size[0]}, the image {image.width}x{image.height}"
        raise RecordError("bad_mask", f"the mask is {sizes}; run 'realign segment' again")
    try:
        return np.asarray(coco.decode({"size": list(mask.size), "counts": mask.counts.encode("ascii")}), dtype=bool)
    except (ValueError, RuntimeError, MemoryError) as error:
        raise RecordError("bad_mask", f"mask cannot be read ({error}); run 'realign segment' again") from None
