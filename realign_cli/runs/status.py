"""How far the runs in a folder are, as their files tell: also while workers are at it, and from any computer."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from realign_cli.data.records import METADATA, parts, shard_of
from realign_cli.data.shards import WHOLE, Shard
from realign_cli.errors import UsageError
from realign_cli.runs import lock
from realign_cli.runs.folder import RUN
from realign_cli.runs.journal import finished_records


@dataclass(frozen=True)
class Part:
    """One shard: how many records are `done`, `failed` and `left`, None where nobody knew beforehand how many come.

    Of those of a loop that are done, `good` earned enough, and `exhausted` had all their tries; else both are None.
    """

    shard: Shard
    done: int
    failed: int
    left: int | None
    holder: lock.Holder | None
    good: int | None = None
    exhausted: int | None = None


@dataclass(frozen=True)
class Status:
    """One run: its command, its shards, and what went wrong, as (stage, kind, recovered) with counts."""

    folder: Path
    command: str
    complete: bool
    parts: list[Part] = field(default_factory=list)
    failures: Counter[tuple[str, str, bool]] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        return sum(part.failed for part in self.parts)


def status(folder: Path) -> list[Status]:
    """The run in `folder`, or else those in the folders in it; an empty one beside them is a run yet to begin.

    Raises:
        UsageError: there is none.
    """
    inner = sorted(path for path in folder.glob("*") if path.is_dir())
    begun = [folder] if (folder / RUN).exists() else [path for path in inner if (path / RUN).exists()]
    found = [one for place in begun if (one := _of(place))]
    if not found:
        raise UsageError(f"{folder}: no run of records here (no {RUN}); give the --out of a command")
    if begun != [folder]:
        nothing = Part(WHOLE, done=0, failed=0, left=None, holder=None)
        found += [Status(path, "(not begun)", False, [nothing]) for path in inner if not any(path.iterdir())]
    return found


def lines(folder: Path) -> int:
    """How many records lie finished in a folder, quickly: those of a retry may count twice."""
    total = 0
    for path in [*parts(folder), folder / METADATA]:
        try:
            total += path.read_bytes().count(b"\n")
        except FileNotFoundError:
            continue
    return total


def _of(folder: Path) -> Status | None:
    """The run in `folder`; None for one that makes no records, such as a training."""
    try:
        run = json.loads((folder / RUN).read_text())
        command, sizes = run["config"]["command"], run.get("records")
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{folder / RUN}: not readable; --overwrite starts over") from None
    if command == "train":
        return None
    holders = lock.holders(folder)
    waiting = parts(folder)
    records = finished_records(folder)
    count = _count(list(holders) or [shard for path in waiting if (shard := shard_of(path))])
    if not sizes or len(sizes) != count:
        sizes = [sum(sizes)] if sizes and count == 1 else [None] * count
    found = Status(folder, command, complete=(folder / METADATA).exists() and not waiting)
    owned: Counter[int] = Counter()
    failed: Counter[int] = Counter()
    stops: Counter[tuple[int, str]] = Counter()
    for record in records.values():
        owner = Shard(1, count).owner(record.prompt_key)
        owned[owner] += 1
        failed[owner] += record.failed
        if record.tries:
            stops[owner, record.tries.stop] += 1
        found.failures.update((one.stage, one.kind, one.recovered) for one in record.failures)
    for index, size in enumerate(sizes, 1):
        shard = Shard(index, count)
        left = 0 if found.complete else None if size is None else max(0, size - owned[index])
        done = owned[index] - failed[index]
        ends = (stops[index, "good"], stops[index, "exhausted"]) if stops else (None, None)
        found.parts.append(Part(shard, done, failed[index], left, holders.get(shard), *ends))
    return found


def _count(shards: list[Shard]) -> int:
    """Into how many shards the workers cut the records; a folder that nobody is at counts as a whole."""
    return max((shard.count for shard in shards), default=WHOLE.count)
