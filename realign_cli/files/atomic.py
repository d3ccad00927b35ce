"""Every write of a file goes through here: a temporary file in the same folder, fsync, then one rename."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from realign_cli.errors import RealignError

if TYPE_CHECKING:
    from PIL.Image import Image

_PREFIX, _SUFFIX = ".realign-", ".tmp"


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that becomes `path` when the block ends well; otherwise nothing is left of it and `path` is as before."""
    staging = temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staging.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` so that `path` always holds either the old bytes or all of the new ones.

    Raises:
        RealignError: the bytes cannot be written (full disk, read-only folder); an old file stays as it was.
    """
    with report_os_errors(path, len(data)), writing(path) as file:
        file.write(data)


@contextmanager
def report_os_errors(path: Path, size: int = 0) -> Iterator[None]:
    """Inside, a write of `size` bytes that fails says where, and how much was to be written.

    Raises:
        RealignError: for every OSError.
    """
    try:
        yield
    except OSError as error:
        amount = f" ({size} bytes)" if size else ""
        raise RealignError(f"cannot write {path}{amount}: {error.strerror}") from None


def write_text(path: Path, text: str) -> None:
    """Replace a file by text in UTF-8; as `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Replace a file by indented JSON; as `write_bytes`."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_png(path: Path, image: Image) -> None:
    """Replace a file by an image; as `write_bytes`."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def copy(source: Path, target: Path) -> None:
    """Give `target` the content of `source`, in a file of its own; where the file system can, they share its blocks.

    A link would let whoever edits one of the two in place change the other.

    Raises:
        OSError: `source` cannot be read.
        RealignError: `target` cannot be written.
    """
    with source.open("rb") as original:
        try:
            with writing(target) as file:
                _clone(original, file)
        except OSError:  # the plain way tells whether reading or writing failed
            original.seek(0)
            write_bytes(target, original.read())


def _clone(source: BinaryIO, target: BinaryIO) -> None:
    """Copy within the kernel, which shares blocks on Btrfs, XFS and the like."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "no such call")
    left = os.fstat(source.fileno()).st_size
    while left:
        done = os.copy_file_range(source.fileno(), target.fileno(), left)
        if not done:
            raise OSError(errno.EIO, "the file got shorter")
        left -= done


def link_or_copy(source: Path, target: Path) -> None:
    """Give `target` the content of `source`, which must be a file that this program wrote, as must its other names.

    A hard link where the file system allows it, otherwise a copy. Sharing is safe because nothing here ever writes into
    an existing file; but other programs do, so what comes from elsewhere is copied. A symbolic link is followed:
    elsewhere it would lead to another file, or to none.
    """
    source = Path(os.path.realpath(source))
    staging = temporary(target)
    staging.unlink(missing_ok=True)
    try:
        os.link(source, staging)
        os.replace(staging, target)
        staging.unlink(missing_ok=True)  # a rename of two links to one file leaves both names
    except OSError:
        copy(source, target)


def create_exclusive(path: Path, text: str) -> bool:
    """Write `path` unless it is there; of several processes that try at once, one does. Returns whether it was this.

    Raises:
        RealignError: it cannot be written.
    """
    staging = temporary(path.with_name(f"{path.name}-{uuid.uuid4().hex}"))  # each its own
    try:
        try:
            _write_new(staging, text)
            os.link(staging, path)
        except FileExistsError:
            raise
        except OSError:  # perhaps no hard links here, and a reader may see half of the file for a moment
            _write_new(path, text)
    except FileExistsError:
        return False
    except OSError as error:
        raise RealignError(f"cannot write {path} ({len(text)} bytes): {error.strerror}") from None
    finally:
        with suppress(OSError):  # a read-only disk refuses even what is not there
            staging.unlink(missing_ok=True)
    return True


def _write_new(path: Path, text: str) -> None:
    with path.open("x") as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink()
            raise


def temporary(path: Path) -> Path:
    """Where a file or folder is prepared before one rename makes it `path`."""
    return path.with_name(f"{_PREFIX}{path.name}{_SUFFIX}")


def sync(path: Path) -> None:
    """Make what a library wrote into a file, or the names of the files in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # so a network file system says that it does this by itself for folders
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, *, below: bool = True) -> None:
    """Delete the temporary files and folders that a killed run may have left in `folder`, and in what lies `below`."""
    find = folder.rglob if below else folder.glob
    for path in list(find(f"{_PREFIX}*{_SUFFIX}")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
