"""Images for a fold: hashed, and decoded unless they are known, by worker processes and in order."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from realign_cli.data.images import image_path, open_image, require_file
from realign_cli.errors import RealignError, RecordError
from realign_cli.files.prefetch import prefetch

if TYPE_CHECKING:
    from PIL.Image import Image

    from realign_cli.data.records import Entry
    from realign_cli.records import Record

_MOST_WORKERS = 8
_AHEAD = 4  # images per worker that may be under way
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class DecodedImage:
    """An entry with the hash of its image file, and the image unless it is known; or why there is none."""

    entry: Entry
    digest: str = ""
    image: Image | None = None
    error: RecordError | None = None


class ImageDecoder:
    """A pool of decoding processes; the model has the main process to itself. They start with the first image."""

    def __init__(self) -> None:
        self._count = max(1, min(_MOST_WORKERS, (os.cpu_count() or 1) - 1))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["realign_cli.evaluation.decoding", "PIL.PngImagePlugin"])
        self._pool = ProcessPoolExecutor(self._count, context, initializer=_settle)

    def views(self, entries: Iterable[Entry], known: Callable[[Record, str], bool]) -> Iterator[DecodedImage]:
        """Every entry in order. An image is decoded unless it is `known` by its record and hash."""
        hashed = self._ahead(self._hash, entries)
        return self._ahead(lambda view: self._decode(view, known), hashed)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _ahead(self, start: Callable[[T], Callable[[], U]], items: Iterable[T]) -> Iterator[U]:
        """Start work on a few items ahead of the one that is given out."""
        return (finish() for finish in prefetch(map(start, items), self._count * _AHEAD))

    def _hash(self, entry: Entry) -> Callable[[], DecodedImage]:
        try:
            path = image_path(entry.record, entry.base)
        except RecordError as error:
            failed = DecodedImage(entry, error=error)
            return lambda: failed
        work = self._pool.submit(_digest, path)
        return lambda: _viewed(entry, work, lambda digest: DecodedImage(entry, digest))

    def _decode(self, view: DecodedImage, known: Callable[[Record, str], bool]) -> Callable[[], DecodedImage]:
        if view.error or known(view.entry.record, view.digest):
            return lambda: view
        work = self._pool.submit(open_image, image_path(view.entry.record, view.entry.base))
        return lambda: _viewed(view.entry, work, lambda image: DecodedImage(view.entry, view.digest, image))


def _viewed(entry: Entry, work: Future[T], view: Callable[[T], DecodedImage]) -> DecodedImage:
    try:
        return view(work.result())
    except RecordError as error:
        return DecodedImage(entry, error=error)
    except BrokenExecutor:
        raise RealignError(
            f"{entry.place}: a process that decodes images was killed, perhaps for want of memory; start again"
        ) from None


def _digest(path: Path) -> str:
    """SHA-256 of the file.

    Raises:
        RecordError: it cannot be read.
    """
    try:
        require_file(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RecordError("unreadable_image", f"{path}: {error.strerror}") from None


def _settle() -> None:
    """Leave interrupts to the main process, and end with it, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
