"""Who is at work in a folder: one file per shard, which names a process, and which that process holds locked.

The kernel keeps the lock (flock) and gives it back when the process ends, however it ends. So it does not matter what
the clock says, or what number a process has in which container. A folder may have several workers at once if each has
a shard of its own and all cut the records into as many shards.

The package `filelock` can take such a lock, but it cannot tell whether one is held without taking it, which would turn
away a worker that starts at that moment, and its files begin empty, so that a kill could leave one that names nobody.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from realign_cli.data.shards import WHOLE, Shard
from realign_cli.errors import RealignError, UsageError
from realign_cli.files import atomic

_PREFIX = ".lock"
_PAUSE = 0.01  # seconds at most, until somebody who only looked at a lock has let go of it


@dataclass(frozen=True)
class Holder:
    """A process: `started` in seconds since the epoch tells it from a later one with the same number."""

    pid: int
    host: str
    started: float

    @classmethod
    def me(cls) -> Holder:
        import psutil

        return cls(os.getpid(), platform.node(), psutil.Process().create_time())

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """Who is named in a lock: None where it is gone, somebody on an unknown host where it cannot be read."""
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            return cls(0, "an unknown host", 0.0)

    @property
    def is_local(self) -> bool:
        """Whether it ran under this host's name, so that the kernel here knows whether its lock is still held."""
        return self.host == platform.node()

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.started))
        return f"process {self.pid} on {self.host}, started {since}"


@contextmanager
def folder_lock(folder: Path, shard: Shard = WHOLE) -> Iterator[None]:
    """Make `folder`, and be the only one at work on this shard of it; the lock of a process that died is taken over.

    What a process that died had half written in the folder itself goes, where this one has all of it.

    Raises:
        UsageError: another process is at work here, or may be on another host.
        RealignError: the folder cannot be made, or its file system has no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RealignError(f"cannot make the folder {folder}: {error.strerror}") from None
    path = _path(folder, shard)
    with _locked(path, shard) as file:
        try:
            _require_same_cut(folder, shard)
            if shard == WHOLE:  # nobody else is at work here; below there may be folders of others
                atomic.remove_leftovers(folder, below=False)
            yield
        finally:
            if is_at(path, file):  # and not the lock of another process, if somebody deleted this one
                path.unlink()


def holders(folder: Path) -> dict[Shard, Holder]:
    """Who is, or on another host may be, at work on which shard of `folder`."""
    found = {}
    for path, shard in _locks(folder):
        with suppress(FileNotFoundError), path.open("rb") as file:
            holder = Holder.read(path)
            if holder and (_is_held(file) or not holder.is_local):
                found[shard] = holder
    return found


def is_lock(path: Path) -> bool:
    """Whether a file is the lock of a folder or of a shard."""
    return path.name.startswith(_PREFIX)


@contextmanager
def flocked(path: Path) -> Iterator[None]:
    """For a moment, let no other process past this line with the same file."""
    with path.open("rb+") as file:  # for writing, without which a network file system gives no exclusive lock
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def take(file: IO[bytes]) -> bool:
    """Lock an open file until it is closed, unless another process has it locked. Returns whether it is this one's.

    Raises:
        RealignError: the file system has no locks.
    """
    try:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            if _is_held(file):
                return False
            time.sleep(random.uniform(0, _PAUSE))  # somebody looks, as `holders` does
    except OSError as error:
        raise RealignError(
            f"{file.name}: no locks on this file system ({error.strerror}); mount it with flock, or choose another"
        ) from None


def is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether the open file still is the one at `path`, and nobody has deleted or replaced it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _locked(path: Path, shard: Shard) -> Iterator[IO[bytes]]:
    """The file at `path`, which names this process and is locked."""
    me = Holder.me()
    while True:
        atomic.create_exclusive(path, json.dumps(asdict(me)) + "\n")
        with suppress(FileNotFoundError), ExitStack() as stack:
            file = stack.enter_context(path.open("rb+"))
            ours = take(file)
            holder = Holder.read(path)
            if holder is None or not is_at(path, file):
                continue  # given back in the meantime
            if not ours or not holder.is_local:
                raise UsageError(_refusal(path, shard, holder, lives=not ours))
            if holder == me:
                kept = stack.pop_all()
                break
            path.unlink()  # of several that find the lock of a dead process, one comes here
    with kept:
        yield file


def _require_same_cut(folder: Path, shard: Shard) -> None:
    """Refuse to work beside shards of another cut, which overlap with this one; delete the locks of those that died."""
    for path, other in _locks(folder):
        if other.count == shard.count:
            continue
        with suppress(FileNotFoundError), path.open("rb+") as file:
            ours, holder = take(file), Holder.read(path)
            if holder and (not ours or not holder.is_local):
                raise UsageError(_refusal(path, other, holder, lives=not ours))
            if is_at(path, file):
                path.unlink()


def _locks(folder: Path) -> list[tuple[Path, Shard]]:
    found = [(path, Shard.of_name(path.name.removeprefix(_PREFIX))) for path in folder.glob(f"{_PREFIX}*")]
    return [(path, shard) for path, shard in found if shard]


def _is_held(file: IO[bytes]) -> bool:
    """Whether a process has the open file locked. To look takes a lock of those that many may have, for a moment."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _refusal(path: Path, shard: Shard, holder: Holder, *, lives: bool) -> str:
    part = "this folder" if shard == WHOLE else f"shard {shard} of this folder"
    remedy = "wait for it, or stop it" if lives else f"if it no longer runs, delete {path}"
    return f"{path.parent}: {holder}, is at work on {part}; {remedy}"


def _path(folder: Path, shard: Shard) -> Path:
    return folder / f"{_PREFIX}{shard.suffix}"
