"""Pictures -> small images as data URIs, so that a page can hold thousands of them."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

_PER_PAGE = 40_000_000  # bytes of all thumbnails of a page before base64, which makes four of three
_MOST = 24_000  # bytes of one thumbnail
PIXEL_ART = 128  # pixels of the longer side, up to which nothing is lost if there is room
_SIZES = ((256, 82), (256, 65), (192, 60), (160, 50), (128, 40), (96, 30), (64, 20))  # longer side, quality
_FIGURE_WIDTH, _FIGURE_BYTES = 1600, 1_000_000
_METHOD = 4  # of WebP's encoder, 0 fast to 6 small


class Thumbnails:
    """Makes thumbnails of `count` pictures, each as large as its share of a page allows."""

    def __init__(self, count: int) -> None:
        self._most = min(_MOST, _PER_PAGE // max(1, count))

    def __call__(self, image: Image.Image) -> str:
        """A data URI of the largest thumbnail within the share, or else of the smallest there is."""
        if max(image.size) <= PIXEL_ART and len(data := _webp(image, lossless=True)) <= self._most:
            return _uri(data)
        for side, quality in _SIZES:
            small = image.copy()
            small.thumbnail((side, side), Image.Resampling.LANCZOS)
            if len(data := _webp(small, quality=quality)) <= self._most:
                break
        return _uri(data)


def figure(path: Path) -> str:
    """A data URI of a plot, as its file is unless that is large.

    Raises:
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    if len(data) <= _FIGURE_BYTES:
        return _uri(data, "png")
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        small = image.convert("RGB")
    small.thumbnail((_FIGURE_WIDTH, small.height))
    return _uri(_webp(small, quality=80))


def _webp(image: Image.Image, **options: int | bool) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", method=_METHOD, **options)
    return buffer.getvalue()


def _uri(data: bytes, kind: str = "webp") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
