"""Pictures -> small images as data URIs, so that a page can hold thousands of them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from realign_cli.data.images import open_image
from realign_cli.errors import RealignError, RecordError

if TYPE_CHECKING:
    from pathlib import Path

_PER_PAGE = 40_000_000  # bytes of all thumbnails of a page before base64, which makes four of three
_MOST = 24_000  # bytes of one thumbnail
PIXEL_ART = 128  # pixels of the longer side, up to which nothing is lost if there is room
_SIZES = ((256, 82), (256, 65), (192, 60), (160, 50), (128, 40), (96, 30), (64, 20))  # longer side, quality
_PLOT_WIDTH, _PLOT_BYTES = 1600, 1_000_000
_METHOD = 2  # of WebP's encoder, 0 fast to 6 small


class Thumbnails:
    """Makes thumbnails of `count` pictures, each as large as its share of a page allows."""

    def __init__(self, count: int) -> None:
        self._most = min(_MOST, _PER_PAGE // max(1, count))

    def __call__(self, image: Image.Image) -> str:
        """A data URI of the largest thumbnail within the share, or else of the smallest there is."""
        if max(image.size) <= PIXEL_ART and len(data := _webp(image, lossless=True)) <= self._most:
            return _uri(data)
        small = image.copy()
        for side, quality in _SIZES:
            small.thumbnail((side, side), Image.Resampling.LANCZOS)
            if len(data := _webp(small, quality=quality)) <= self._most:
                break
        return _uri(data)


@dataclass(frozen=True)
class Plot:
    """A plot as a data URI, and whether it is higher than wide."""

    src: str
    tall: bool


def plot(path: Path) -> Plot:
    """A plot as its file is, or smaller where that is large.

    Raises:
        RealignError: it is no picture.
    """
    try:
        image = open_image(path)
    except RecordError as error:
        raise RealignError(f"{error}; run 'realign eval --out' again") from None
    data, tall = path.read_bytes(), image.height > image.width
    if len(data) <= _PLOT_BYTES:
        return Plot(_uri(data, "png"), tall)
    image.thumbnail((_PLOT_WIDTH, image.height))
    return Plot(_uri(_webp(image, quality=80)), tall)


def _webp(image: Image.Image, **options: int | bool) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", method=_METHOD, **options)
    return buffer.getvalue()


def _uri(data: bytes, kind: str = "webp") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
