"""Where records come from: a folder, a file, a pipe, or the images of a plain folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from realign_cli.data.pipe import record_lines
from realign_cli.errors import NoInput, RecordError, UsageError
from realign_cli.records import ID, Record, as_record, parse_json, parse_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

log = logging.getLogger(__name__)

METADATA = "metadata.jsonl"
STDIN = "-"
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})  # pytorch-fid's
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # not EPS, which Pillow gives to Ghostscript to run


@dataclass(frozen=True)
class Entry:
    """A record, where it was read (file:line), and the folder that its file name is relative to (None on a pipe)."""

    record: Record
    place: str
    base: Path | None = None


@dataclass(frozen=True)
class Shard:
    """The i-th of n parts of a record set, by a hash of the id; the union of all n parts is the whole."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise UsageError(f"--shard {text}: write i/n with 1 <= i <= n, such as 1/4")
        return cls(int(index), int(count))

    @classmethod
    def of_name(cls, suffix: str) -> Shard | None:
        """The shard that ends a file's name with this `suffix`, if it is one."""
        if not suffix:
            return WHOLE
        found = re.fullmatch(r"-(\d+)-of-(\d+)", suffix)
        return cls(int(found[1]), int(found[2])) if found else None

    @property
    def suffix(self) -> str:
        """What the names of this shard's files end with; nothing for the whole."""
        return "" if self.count == 1 else f"-{self.index}-of-{self.count}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def owns(self, record_id: str) -> bool:
        return self.owner(record_id) == self.index

    def sizes(self, ids: Iterable[str]) -> list[int]:
        """How many of `ids` each of the n shards owns."""
        owners = Counter(map(self.owner, ids))
        return [owners[index] for index in range(1, self.count + 1)]

    def owner(self, record_id: str) -> int:
        """The index of the shard, of as many as this one is of, that owns a record."""
        digest = hashlib.sha256(record_id.encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.count + 1


WHOLE = Shard(1, 1)


def read_records(source: str) -> Iterator[Entry]:
    """Stream the records of a folder, a JSONL file or stdin ("-").

    Raises:
        NoInput: at once, where stdin is a terminal.
        UsageError: nothing there, at once; or on the way a line that is not a record, or an id that occurs twice.
        RealignError: at the end of a pipe, where the command before this one ended early.
    """
    if source != STDIN:
        return _of_file(metadata_path(Path(source)))
    if sys.stdin.isatty():
        raise NoInput("no input: give --in FOLDER, or pipe records into this command")
    return _entries(record_lines(sys.stdin.buffer, "stdin"), "stdin", None)


def _of_file(path: Path) -> Iterator[Entry]:
    with path.open("rb") as file:
        yield from _entries(file, str(path), path.parent)


def metadata_path(path: Path) -> Path:
    """The JSONL file of a folder or of itself; a clear error where there is none."""
    file = path / METADATA if path.is_dir() else path
    if not path.exists():
        raise UsageError(f"{path}: no such folder or file")
    if not file.is_file():
        unfinished = f"its run was interrupted: run its command again; 'realign status {path}' tells what is left"
        hint = unfinished if parts(path) else "give a folder that realign wrote"
        raise UsageError(f"{path}: no {METADATA} in this folder; {hint}")
    return file


def journal_path(folder: Path, shard: Shard = WHOLE) -> Path:
    """Where a run keeps its finished records until it, or its shard, is complete."""
    return folder / f".{METADATA}.part{shard.suffix}"


def done_path(folder: Path, shard: Shard) -> Path:
    """Where the records of a complete shard wait for those of the others."""
    return folder / f".{METADATA}.done{shard.suffix}"


def parts(folder: Path) -> list[Path]:
    """The files with records that are not in `metadata.jsonl` yet; a journal comes after what it continues."""
    return sorted(folder.glob(f".{METADATA}.*"))


def shard_of(part: Path) -> Shard | None:
    """Whose file one of `parts` is."""
    return Shard.of_name(re.sub(r"^\.(done|part)", "", part.name.removeprefix(f".{METADATA}")))


def record_ids(source: str) -> list[str] | None:
    """The ids in `source`, in order, if they can be known before reading; lines that cannot be read are left out."""
    if source == STDIN:
        return None
    ids = []
    with metadata_path(Path(source)).open("rb") as file:
        for line in file:
            with suppress(ValueError, TypeError, KeyError, RecursionError):
                data = json.loads(line)
                ids.append(str(data["id"] if "id" in data else _stem(data["file_name"])))
    return ids


def count_records(source: str) -> int | None:
    """How many records `source` holds, if that can be known before reading them."""
    if source == STDIN:
        return None
    with metadata_path(Path(source)).open("rb") as file:
        return sum(1 for line in file if line.strip())


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


def read_images(folder: Path) -> Iterator[Entry]:
    """Records without prompts for the images of a plain folder; their ids are numbers."""
    for number, path in enumerate(image_files(folder)):
        yield Entry(Record(file_name=path.name, text="", id=f"{number:06d}"), str(path), folder)


def read_any(source: str) -> Iterator[Entry]:
    """Records as `read_records` reads them, or the images of a folder that holds images only."""
    return read_images(Path(source)) if _is_plain(source) else read_records(source)


def count_any(source: str) -> int | None:
    """How many `read_any` gives, if that can be known before reading."""
    return len(image_files(Path(source))) if _is_plain(source) else count_records(source)


def _is_plain(source: str) -> bool:
    path = Path(source)
    is_folder = source != STDIN and path.is_dir()
    return is_folder and not (path / METADATA).exists() and not parts(path) and bool(image_files(path))


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


def read_text(path: Path, member: str = "") -> str:
    """The text of a file, or of the file `member` in it if it is a .zip.

    Raises:
        UsageError: no such file or member, or no UTF-8 text.
    """
    try:
        data = zipfile.Path(path, member).read_bytes() if path.suffix == ".zip" else path.read_bytes()
        return data.decode("utf-8-sig")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: {reason}; name a text file, such as prompts.txt") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _entries(file: Iterable[bytes], name: str, base: Path | None) -> Iterator[Entry]:
    empty = True
    for entry in unique(Entry(record, place, base) for place, record in parse_lines(file, name, _Identified(name))):
        empty = False
        yield entry
    if empty:
        raise UsageError(f"{name}: no records")


class _Identified:
    """`parse_line` for what another program may have written: an imagefolder needs no ids."""

    def __init__(self, name: str) -> None:
        self._name, self._said = name, False

    def __call__(self, line: str, place: str) -> Record:
        data = parse_json(line, place)
        if not isinstance(data, dict) or "id" in data or not isinstance(data.get("file_name"), str):
            return as_record(data, place)
        stem = _stem(data["file_name"])
        if not re.fullmatch(ID, stem):
            raise UsageError(
                f"{place}: no 'id', and {stem!r} of its file_name cannot be one; give each record an 'id' of letters, "
                "digits, '.', '_' and '-'"
            )
        if not self._said:
            log.warning("%s: without 'id', the stem of 'file_name' is a record's id, such as '%s'", self._name, stem)
            self._said = True
        return as_record(data | {"id": stem}, place)


def _stem(file_name: str) -> str:
    return PurePosixPath(file_name).stem


def parse_lines(
    file: Iterable[bytes], name: str, parse: Callable[[str, str], Record] = parse_line
) -> Iterator[tuple[str, Record]]:
    """Each record of a JSONL file and its place; a byte order mark, CRLF and empty lines are no part of it.

    `parse` turns a line, given its place, into a record.

    Raises:
        UsageError: a line that is not a record.
    """
    for number, raw in enumerate(file, 1):
        place = f"{name}:{number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise UsageError(f"{place}: not UTF-8 text; remove or repair the line") from None
        if line:
            yield place, parse(line, place)


def unique(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries, whose ids must differ.

    Raises:
        UsageError: an id that was used before.
    """
    seen: dict[str, str] = {}
    for entry in entries:
        first = seen.setdefault(entry.record.id, entry.place)
        if first != entry.place:
            raise UsageError(f"{entry.place}: id {entry.record.id!r} was used before, at {first}; ids must be unique")
        yield entry


def _inside(path: Path, base: Path) -> bool:
    """Whether `path`, with every symbolic link followed, still lies in `base`."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(base))
