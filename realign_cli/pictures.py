"""Pictures for people: masks, overlays and strips of an image before and after. Arrays in, PIL images out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from realign_cli.roles import Region

# Distinguishable with most colour vision deficiencies (Okabe and Ito).
PALETTE = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233))
_KEPT = PALETTE[2]
_TILE = 192
_LINE = 18
_HEAT = 0.65  # of a colour over an image
_BAR = 90  # pixels of a scale of colours
_FRAME = 3  # pixels around what was kept
_READABLE = 256  # pixels of the longer side, from which on a number in a picture can be read
_SEEN = 400  # characters; Pillow measures all of a text before it draws any


def mask_picture(mask: NDArray[np.bool_]) -> Image.Image:
    """A mask as white on black."""
    return Image.fromarray(mask.astype(np.uint8) * 255)


def overlay(image: Image.Image, masks: Sequence[NDArray[np.bool_]]) -> Image.Image:
    """The image in grey with each bool (H, W) mask in a colour of its own."""
    canvas = np.asarray(image.convert("L").convert("RGB"), dtype=np.float32) * 0.6 + 64
    for i, mask in enumerate(masks):
        canvas[mask] = 0.35 * canvas[mask] + 0.65 * np.array(PALETTE[i % len(PALETTE)])
    return Image.fromarray(canvas.astype(np.uint8))


def found(
    image: Image.Image, masks: Sequence[NDArray[np.bool_] | None], boxes: Sequence[Sequence[Sequence[int]]]
) -> Image.Image:
    """The image in grey with what was found in it: of each thing the bool (H, W) mask, and the boxes with its number.

    `boxes` are x0, y0, x1, y1 in pixels. A small image is enlarged, so that the numbers can be read.
    """
    scale = max(1, round(_READABLE / max(image.size)))
    blank = np.zeros((image.height, image.width), bool)
    canvas = overlay(image, [blank if mask is None else mask for mask in masks])
    canvas = canvas.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    draw, size = ImageDraw.Draw(canvas), max(15, max(canvas.size) // 13)
    font, line = ImageFont.load_default(size=size), max(2, max(canvas.size) // 128)
    for i, places in enumerate(boxes):
        colour = PALETTE[i % len(PALETTE)]
        for x0, y0, x1, y1 in places:
            left, right = sorted(min(max(0, scale * x), canvas.width) for x in (x0, x1))
            top, bottom = sorted(min(max(0, scale * y), canvas.height) for y in (y0, y1))
            draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=line)
            label = (left, top, left + size * (0.4 + 0.6 * len(f"{i + 1}")), top + 1.2 * size)
            draw.rectangle(label, fill=colour)
            middle = ((label[0] + label[2]) / 2, (label[1] + label[3]) / 2)
            draw.text(middle, f"{i + 1}", fill=ink(colour), font=font, anchor="mm")
    return canvas


def ink(colour: tuple[int, int, int]) -> str:
    """Black or white, whichever is read better on an RGB colour."""
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def grid(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str]) -> Image.Image:
    """Rows of equally many images, each row under its title."""
    width = max(len(row) for row in rows) * (_TILE + 4)
    canvas = Image.new("RGB", (width, len(rows) * (_TILE + _LINE + 4)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    for y, (row, title) in enumerate(zip(rows, titles, strict=True)):
        top = y * (_TILE + _LINE + 4)
        draw.text((2, top), _line(title), fill="black", font=font)
        _paste(canvas, row, top + _LINE)
    return canvas


def strip(prompt: str, coarse: Image.Image, regions: Sequence[Region], final: Image.Image, kept: str) -> Image.Image:
    """One row: the coarse image, its masks, the final image; under them the prompt and the phrase of each mask."""
    tiles = [coarse, overlay(coarse, [region.mask for region in regions]), final]
    lines = max(1, len(regions)) + 1
    canvas = Image.new("RGB", (3 * _TILE + 8, _TILE + lines * _LINE + 6), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    _paste(canvas, tiles)
    chosen = 0 if kept == "coarse" else 2 * (_TILE + 4)
    draw.rectangle((chosen, 0, chosen + _TILE - 1, _TILE - 1), outline=_KEPT, width=_FRAME)
    draw.text((2, _TILE + 2), f"{_line(prompt)}   (kept: {kept})", fill="black", font=font)
    for i, region in enumerate(regions):
        y = _TILE + 2 + (i + 1) * _LINE
        draw.rectangle((4, y + 3, 14, y + 13), fill=PALETTE[i % len(PALETTE)])
        draw.text(
            (20, y),
            f"{_line(region.phrase) or 'nothing here'}   likelihood {region.likelihood:g}",
            fill="black",
            font=font,
        )
    if not regions:
        draw.text((2, _TILE + 2 + _LINE), "nothing found to refine by", fill=(120, 120, 120), font=font)
    return canvas


@dataclass(frozen=True)
class Tile:
    """An image of a row, with a line of text, and whether it is the one that was kept."""

    image: Image.Image
    title: str
    kept: bool


def row(prompt: str, shown: Sequence[Tile], places: int) -> Image.Image:
    """Images side by side, with room for `places` of them; under them the prompt and the line of each."""
    canvas = Image.new("RGB", (places * (_TILE + 4), _TILE + (places + 1) * _LINE + 6), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    _paste(canvas, [tile.image for tile in shown])
    draw.text((2, _TILE + 2), _line(prompt), fill="black", font=font)
    for i, tile in enumerate(shown):
        if tile.kept:
            left = i * (_TILE + 4)
            draw.rectangle((left, 0, left + _TILE - 1, _TILE - 1), outline=_KEPT, width=_FRAME)
        text = f"{i + 1}  {_line(tile.title)}"
        draw.text((2, _TILE + 2 + (i + 1) * _LINE), text, fill=_KEPT if tile.kept else (90, 90, 90), font=font)
    return canvas


def row_tiles(picture: Image.Image, count: int) -> list[Image.Image]:
    """The first `count` images of a picture that `row` or `strip` drew, as large as they are on it."""
    return [picture.crop((x, 0, x + _TILE, _TILE)) for x in range(0, count * (_TILE + 4), _TILE + 4)]


def is_tile_of(tile: Image.Image, image: Image.Image) -> bool:
    """Whether a tile of a row shows this image, be it in a frame."""
    inner = (slice(_FRAME, -_FRAME),) * 2
    shown, expected = (np.asarray(one, np.float32)[inner] for one in (tile, _as_tile(image)))
    return bool(np.abs(shown - expected).mean() < 1)  # another version of Pillow may round another way


@dataclass(frozen=True)
class MapColumn:
    """The attention maps of a word or phrase, float (h, w), one for each row or None, but not for all of them.

    `outline` is the bool (H, W) mask of what it speaks of, if that is known.
    """

    title: str
    maps: Sequence[NDArray[np.float32] | None]
    outline: NDArray[np.bool_] | None = None


def map_grid(prompt: str, rows: Sequence[tuple[str, Image.Image]], columns: Sequence[MapColumn]) -> Image.Image:
    """Attention maps over the images of titled rows, a column for each word, whose maps share one scale.

    Colours are those of matplotlib's inferno, from the least to the most of a column, which stand at its foot.
    """
    from matplotlib import colormaps  # takes a while

    step, foot = _TILE + 4, _TILE + _LINE
    canvas = Image.new("RGB", ((1 + len(columns)) * step, 2 * _LINE + len(rows) * foot + _LINE), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    draw.text((2, 0), _line(prompt), fill="black", font=font)
    for y, (title, image) in enumerate(rows):
        canvas.paste(_as_tile(image), (0, 2 * _LINE + y * foot))
        draw.text((2, 2 * _LINE + y * foot + _TILE), title, fill="black", font=font)
    for x, column in enumerate(columns, 1):
        draw.text((x * step + 2, _LINE), _line(column.title), fill="black", font=font)
        known = np.concatenate([one.ravel() for one in column.maps if one is not None])
        least, most = float(known.min()), float(known.max())
        for y, ((_, image), one) in enumerate(zip(rows, column.maps, strict=True)):
            if one is not None:
                heat = colormaps["inferno"]((one - least) / (most - least or 1), bytes=True)[..., :3]
                canvas.paste(_laid_over(image, heat, column.outline), (x * step, 2 * _LINE + y * foot))
        top, ends = canvas.height - _LINE, (f"{least:.2g}", f"{most:.2g}")
        bar = Image.fromarray(colormaps["inferno"](np.linspace(0, 1, _BAR)[None], bytes=True)[..., :3])
        canvas.paste(bar.resize((_BAR, 10), Image.Resampling.NEAREST), (x * step + (_TILE - _BAR) // 2, top + 4))
        for end, left, anchor in zip(ends, (_TILE - _BAR - 8, _TILE + _BAR + 8), ("rm", "lm"), strict=True):
            draw.text((x * step + left // 2, top + 9), end, fill="black", font=font, anchor=anchor)
    return canvas


def _laid_over(image: Image.Image, heat: NDArray[np.uint8], outline: NDArray[np.bool_] | None) -> Image.Image:
    """A tile of the image in grey under colours, uint8 (h, w, 3), with a white line around a mask."""
    grey = _as_tile(image.convert("L").convert("RGB"))
    tile = Image.blend(grey, Image.fromarray(heat).resize(grey.size, Image.Resampling.BILINEAR), _HEAT)
    if outline is not None:
        mask = mask_picture(outline).resize(grey.size, Image.Resampling.NEAREST)
        edge = np.asarray(mask.filter(ImageFilter.MaxFilter(3))) > np.asarray(mask.filter(ImageFilter.MinFilter(3)))
        tile.paste("white", mask=Image.fromarray(edge))
    return tile


def before_and_after(title: str, prompt: str, before: Image.Image, after: Image.Image) -> Image.Image:
    """Two images side by side; under them a title and the prompt, cut where it is too long."""
    canvas = Image.new("RGB", (2 * _TILE + 4, _TILE + 2 * _LINE + 6), "white")
    _paste(canvas, [before, after])
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    for i, text in enumerate((title, prompt)):
        draw.text((2, _TILE + 2 + i * _LINE), _line(text), fill="black", font=font)
    return canvas


def _line(text: str) -> str:
    """What is seen of a text: one line, and no more than a tile's worth several times over."""
    return " ".join(text[:_SEEN].split())


def _paste(canvas: Image.Image, tiles: Sequence[Image.Image], top: int = 0) -> None:
    """Tiles of one size, side by side from the left."""
    for i, tile in enumerate(tiles):
        canvas.paste(_as_tile(tile), (i * (_TILE + 4), top))


def _as_tile(image: Image.Image) -> Image.Image:
    filtering = Image.Resampling.NEAREST if image.width < _TILE else Image.Resampling.LANCZOS
    return image.resize((_TILE, _TILE), filtering)
