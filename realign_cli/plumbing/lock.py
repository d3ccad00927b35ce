"""Who is at work in a folder: one file per shard, with the process, its host and its start.

A folder may have several workers at once if each has a shard of its own and all cut the records into as many shards.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from realign_cli.errors import RealignError, UsageError
from realign_cli.plumbing import atomic
from realign_cli.plumbing.source import WHOLE, Shard

_PREFIX = ".lock"
_SAME_START = 2.0  # seconds by which the start of a process may seem to move when the clock is set


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
        return self.host == platform.node()

    @property
    def may_live(self) -> bool:
        """Whether the process still runs; what runs on another host is not known here, so it may."""
        import psutil

        if not self.is_local:
            return True
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < _SAME_START
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.started))
        return f"process {self.pid} on {self.host}, started {since}"


@contextmanager
def held(folder: Path, shard: Shard = WHOLE) -> Iterator[None]:
    """Make `folder`, and be the only one at work on this shard of it; the lock of a process that died is taken over.

    Raises:
        UsageError: another process is at work here, or may be on another host.
        RealignError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RealignError(f"cannot make the folder {folder}: {error.strerror}") from None
    path = _path(folder, shard)
    while not atomic.create(path, json.dumps(asdict(Holder.me())) + "\n"):
        _take_from_the_dead(path, shard)
    try:
        for other, holder in holders(folder).items():
            if other.count != shard.count:
                raise UsageError(_refusal(_path(folder, other), other, holder))
        yield
    finally:
        path.unlink(missing_ok=True)


def holders(folder: Path) -> dict[Shard, Holder]:
    """Who is, or on another host may be, at work on which shard of `folder`."""
    found = {Shard.of_name(path.name.removeprefix(_PREFIX)): Holder.read(path) for path in folder.glob(f"{_PREFIX}*")}
    return {shard: holder for shard, holder in found.items() if shard and holder and holder.may_live}


def is_lock(path: Path) -> bool:
    return path.name.startswith(_PREFIX)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """For a moment, let no other process past this line with the same file."""
    with path.open("rb+") as file:  # for writing, without which a network file system gives no exclusive lock
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _take_from_the_dead(path: Path, shard: Shard) -> None:
    """Remove a lock whose process is gone. Of several that find it at once only the first removes it."""
    try:
        with path.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return
            holder = Holder.read(path)
            if holder and holder.may_live:
                raise UsageError(_refusal(path, shard, holder))
            path.unlink()
    except FileNotFoundError:
        return  # given back in the meantime


def _refusal(path: Path, shard: Shard, holder: Holder) -> str:
    part = "this folder" if shard == WHOLE else f"shard {shard} of this folder"
    remedy = "wait for it, or stop it" if holder.is_local else f"if it no longer runs, delete {path}"
    return f"{path.parent}: {holder}, is at work on {part}; {remedy}"


def _path(folder: Path, shard: Shard) -> Path:
    return folder / f"{_PREFIX}{shard.suffix}"
