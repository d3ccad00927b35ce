"""Image files: which there are in a folder, where the one of a record is, and how they are read."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from realign_cli.errors import RecordError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

    from realign_cli.records import Record

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})  # pytorch-fid's
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # not EPS, which Pillow gives to Ghostscript to run


def image_files(folder: Path) -> list[Path]:
    """The images that lie in `folder` itself, by their suffix, in the natural order of their names: 2 before 10.

    Hidden files are none: macOS leaves a ._a.png beside a.png on other file systems, with no picture in it.
    """
    paths = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(
        (path for path in paths if not path.name.startswith(".") and path.is_file()),
        key=lambda path: (natural(path.name), path.name),
    )


def natural(name: str) -> list[str | int]:
    """What sorts names by the numbers in them, whatever their Unicode normalisation."""
    parts = re.split(r"(\d+)", unicodedata.normalize("NFC", name))
    return [int(part) if part.isdecimal() else part for part in parts]


def image_path(record: Record, base: Path | None) -> Path:
    """The one place that turns `file_name` into a path.

    In a folder's file the name is relative to `base` and may not leave it; on a pipe (`base` is None) it is absolute.

    Raises:
        RecordError: the name is neither.
    """
    name = record.file_name
    if not name or "\0" in name:
        raise RecordError("no_image", f"record {record.id} names no image")
    if base is None:
        if not Path(name).is_absolute():
            raise RecordError("bad_file_name", f"file_name {name!r} on a pipe must be an absolute path")
        return Path(name)
    parts = PurePosixPath(name).parts
    foreign = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or PureWindowsPath(name).root
    path = base / name
    if foreign or ".." in parts or not _inside(path, base):
        raise RecordError("bad_file_name", f"file_name {name!r} leaves its folder {base}")
    return path


def require_file(path: Path) -> None:
    """Refuse what is no file: to read from a pipe or a device may never end.

    Raises:
        RecordError: nothing is there, or no file.
        OSError: it cannot be told.
    """
    if not path.exists():
        raise RecordError("missing_image", f"{path}: no such image; generate it again")
    if not path.is_file():
        raise RecordError("unreadable_image", f"{path}: not a file; generate it again")


def open_image(path: Path) -> Image:
    """Read an image as RGB, whatever its mode; transparent parts become white, of an animation the first frame counts.

    Raises:
        RecordError: not a readable image.
    """
    import warnings

    from PIL import Image, PngImagePlugin

    # For the whole process, since threads come here. What is wrong with an image is an error below, or does not matter.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # programs keep whole workflows in one chunk
    try:
        require_file(path)
        with Image.open(path, formats=_FORMATS) as file:
            if Image.MAX_IMAGE_PIXELS and file.width * file.height > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"{file.width} x {file.height} pixels could be a decompression bomb")
            image = _upright(file)
            if image.mode.startswith("I"):  # 16 bits, which a plain conversion clips to white
                image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
            if image.mode == "F":
                raise ValueError("float pixels have no agreed range; save them as 8-bit")
            if "A" in image.mode or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("RGB")
    except RecordError:
        raise
    except Exception as error:  # on damaged bytes Pillow's decoders raise whatever comes of them
        reason = f"{error}" or type(error).__name__
        raise RecordError("unreadable_image", f"{path}: not a readable image ({reason}); generate it again") from None


def _upright(file: ImageFile) -> Image:
    """The pixels as the orientation in EXIF or XMP has them shown; nothing else of such a block is looked at.

    As in a viewer, a block that cannot be read turns nothing.
    """
    from PIL import ExifTags, ImageOps

    file.load()
    try:
        orientation = file.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # whatever comes of bytes that are no EXIF
        orientation = None
    image = file.copy()
    # Pillow writes all tags back after turning, and fails where one is odd; so it gets the orientation alone.
    image.info = {key: value for key, value in file.info.items() if key == "transparency"}
    image.getexif()[ExifTags.Base.Orientation] = orientation
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _inside(path: Path, base: Path) -> bool:
    """Whether `path`, with every symbolic link followed, still lies in `base`."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(base))
