"""The runner of every map stage: records in, records out, batch by batch, in order, resumable."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realign_cli import console
from realign_cli.data.images import image_path, open_image, require_file
from realign_cli.data.maps import maps_bytes, maps_path, read_maps
from realign_cli.data.pipe import RecordWriter
from realign_cli.data.shards import WHOLE, Shard
from realign_cli.errors import RecordError, UsageError
from realign_cli.files import atomic
from realign_cli.files.prefetch import prefetch
from realign_cli.records import Failure, Record
from realign_cli.runs.folder import RunFolder, image_name, picture_path
from realign_cli.runs.times import add_times
from realign_cli.stages.base import Item, Outcome, Stage

if TYPE_CHECKING:
    from PIL.Image import Image

    from realign_cli.data.records import Entry

_THREADS = 4  # that read and write images


def run_map(
    entries: Iterable[Entry],
    stages: Sequence[Stage],
    *,
    out: RunFolder | None,
    batch_size: int,
    shard: Shard = WHOLE,
    retry: bool = False,
    read_ahead: bool = False,
    final: bool = True,
    left_out: Set[str] = frozenset(),
    total: int | None = None,
    quiet: bool = False,
    echo: bool = True,
) -> console.Summary:
    """Run `stages` one after the other over every batch of the `entries` that `shard` owns.

    All but the last stage are skipped for records that have what they add. With `out`, records, images and
    pictures are kept there; with `echo`, records go to stdout unless it is a terminal. Failed records pass through;
    what a stage recovered from is reported by the run in which the stage took part, and by no later one. With `retry`,
    records in `out` that would be reported are computed again. While the stages work on a batch, threads write the one
    before, unless it goes into a pipe at once; with `read_ahead` they read the images of the next, which is not for
    input from a pipe, where the next may be long in coming. Finished records in `out` that are not in the input go if
    the input is `final`; a pipe is not, for it may have lost some on the way, and then only those go that were
    `left_out` of it, once it is read.

    Raises:
        UsageError: a record lacks a key that its stage needs, or `out` holds another record under the same id; or the
            batch size is none.
        RealignError: something cannot be written, or the input broke off; what is finished is kept in `out`.
    """
    if batch_size < 1:  # with which no record would be seen
        raise UsageError(f"a batch of {batch_size} images is none; give batch_size in the preset 1 or more")
    began = time.monotonic()
    summary = console.Summary(stages[-1].name, out=str(out.path) if out else None)
    pipe = RecordWriter(sys.stdout) if echo and not sys.stdout.isatty() else None
    ids: list[str] = []  # of the whole input
    with ExitStack() as stack:
        advance = stack.enter_context(console.progress(stages[-1].name, total, quiet=quiet))
        pool = ThreadPoolExecutor(_THREADS)
        stack.callback(pool.shutdown, cancel_futures=True)
        writer = stack.enter_context(ThreadPoolExecutor(1))  # batches come out in the order of the input
        batches = _batches(_in_shard(entries, shard, ids), batch_size)
        jobs = map(partial(_job, stages=stages, out=out, retry=retry, pool=pool), batches)
        finish = partial(_finish, stages=stages, out=out, pool=pool, summary=summary, advance=advance)
        finished: Future[list[Record]] | None = None
        for job in prefetch(jobs, int(read_ahead)):
            for stage in stages:
                time_of = summary.stages.setdefault(stage.name, console.StageTime())
                _apply(stage, job.work.values(), time_of, only_missing=stage is not stages[-1])
            if finished:
                finished.result()
            finished = writer.submit(finish, job)
            # The reader of a pipe gets a batch at once, and from this thread: where a full pipe holds it, it can be
            # interrupted.
            if pipe:
                for entry, record in zip(job.batch, finished.result(), strict=True):
                    _echo(record, out.path if out else entry.base, pipe)
                pipe.flush()
        if finished:
            finished.result()
    if out:
        add_times(out.path, summary.stages)
        summary.dropped = len(out.kept.keys() - set(ids) if final else out.kept.keys() & left_out)
        summary.complete = out.complete(ids, final=final, left_out=left_out)
    if pipe:
        pipe.end()
    summary.seconds = time.monotonic() - began
    return summary


class _Work:
    """A record on its way through the stages."""

    def __init__(self, entry: Entry, image: Future[Image] | None) -> None:
        self.entry = entry
        self.record = entry.record
        self.outcomes: list[Outcome] = []
        self._image = image

    def look(self) -> Image:
        """The image of the entry, read once for all stages."""
        assert self._image is not None, "it is read for stages that look and take part"
        return self._image.result()

    def fail(self, stage: str, error: RecordError) -> None:
        self._note(Failure(stage=stage, kind=error.kind, message=str(error)))

    def finish(self, stage: str, outcome: Outcome) -> None:
        self.record = self.record.replace(**outcome.changes)
        self.outcomes.append(outcome)
        before = [f for f in self.record.failures if f.stage != stage]  # of an earlier run of this stage
        if len(before) < len(self.record.failures):
            self.record = self.record.replace(failures=before)
        if error := outcome.recovered:
            self._note(Failure(stage=stage, kind=error.kind, message=str(error), recovered=True))

    def _note(self, failure: Failure) -> None:
        self.record = self.record.replace(failures=[*self.record.failures, failure])


@dataclass(frozen=True)
class _Job:
    """A batch, its records that an earlier run has finished, and work on the others, by their ids."""

    batch: Sequence[Entry]
    done: Mapping[str, Record]
    work: Mapping[str, _Work]


def _job(
    batch: Sequence[Entry], *, stages: Sequence[Stage], out: RunFolder | None, retry: bool, pool: ThreadPoolExecutor
) -> _Job:
    done = _finished_before(batch, out, stages if retry else ())
    if len(done) == len(batch):
        return _Job(batch, done, {})

    def work(entry: Entry) -> _Work:
        needs_image = any(stage.needs_image for stage in _taking_part(entry.record, stages))
        return _Work(entry, pool.submit(_open, entry) if needs_image else None)

    # A batch is computed whole even if a kill left part of it, so that every image sees the same batch again; but to
    # try one record again is to pay for one.
    again = [entry for entry in batch if not (retry and entry.record.id in done)]
    return _Job(batch, done, {entry.record.id: work(entry) for entry in again})


def _open(entry: Entry) -> Image:
    return open_image(image_path(entry.record, entry.base))


def _taking_part(record: Record, stages: Sequence[Stage]) -> list[Stage]:
    """The last stage, and those whose keys the record lacks."""
    return [stage for stage in stages if stage is stages[-1] or not stage.is_done(record)]


def _apply(stage: Stage, work: Iterable[_Work], time_of: console.StageTime, *, only_missing: bool) -> None:
    chosen, items = [], []
    for one in work:
        if one.record.failed or (only_missing and stage.is_done(one.record)):
            continue
        for key, command in stage.requires.items():
            if getattr(one.record, key) is None:
                raise UsageError(f"{one.entry.place}: no '{key}'; run 'realign {command}' first")
        try:
            image = one.look() if stage.needs_image else None
        except RecordError as error:
            one.fail(stage.name, error)
            continue
        chosen.append(one)
        items.append(Item(one.record, image, partial(read_maps, one.entry.record, one.entry.base)))
    began = time.monotonic()
    outcomes = stage(items) if items else []
    time_of.images += len(items)
    time_of.seconds += time.monotonic() - began
    for one, outcome in zip(chosen, outcomes, strict=True):
        if isinstance(outcome, RecordError):
            one.fail(stage.name, outcome)
        else:
            one.finish(stage.name, outcome)


def _finish(
    job: _Job,
    *,
    stages: Sequence[Stage],
    out: RunFolder | None,
    pool: ThreadPoolExecutor,
    summary: console.Summary,
    advance: Callable[[int], None],
) -> list[Record]:
    """The records of a batch; what they did not have before is kept in `out`."""
    if out and job.work:
        out.begin(work.record for work in job.work.values())
    stored = {i: pool.submit(_store, work, out, stages[-1].name) for i, work in job.work.items()}
    records = []
    for entry in job.batch:
        record = job.done.get(entry.record.id)
        if record is None:
            record = stored[entry.record.id].result()
            if out:
                out.add(record)
        records.append(record)
        reported = _failures_to_report(record, entry.record, stages)
        summary.failed += bool(reported)
        summary.failures += [f"{entry.place}: {f.stage}: {f.message}" for f in reported]
        summary.passes += record.cost.passes if record.cost else 0
        summary.steps += (record.cost.steps or 0) if record.cost else 0
    summary.records += len(job.batch)
    summary.kept += len(job.done)
    if out:
        out.flush()
    advance(len(job.batch))
    return records


def _failures_to_report(record: Record, given: Record, stages: Sequence[Stage]) -> list[Failure]:
    """The failures of a record for this run's summary: those that stand, and what its own stages recovered from."""
    ran = {stage.name for stage in _taking_part(given, stages)}
    return [failure for failure in record.failures if not failure.recovered or failure.stage in ran]


def _finished_before(batch: Sequence[Entry], out: RunFolder | None, retried: Sequence[Stage]) -> dict[str, Record]:
    """The records of this batch that an earlier run has finished, but for those in which `retried` stages failed."""
    if out is None:
        return {}
    done = {}
    for entry in batch:
        record = out.kept.get(entry.record.id)
        if (
            record is None
            or _lacks_image(record, entry, out)
            or (retried and _failures_to_report(record, entry.record, retried))
        ):
            continue
        now, then = entry.record.model_dump(exclude_unset=True), record.model_dump()
        given = [key for key in now if key not in ("file_name", "failures", "cost")]
        differing = [key for key in given if not _extends(then.get(key), now[key])]
        if differing:
            raise UsageError(
                f"{entry.place}: {out.path} holds another record {record.id!r} ({', '.join(differing)} differ); "
                "--overwrite starts over"
            )
        done[record.id] = record
    return done


def _extends(then: Any, now: Any) -> bool:
    """Whether `then` is `now`, or `now` with keys added at any depth, as segment adds boxes to objects."""
    if isinstance(then, dict) and isinstance(now, dict):
        return all(key in then and _extends(then[key], value) for key, value in now.items())
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(map(_extends, then, now))
    return bool(then == now)


def _lacks_image(record: Record, entry: Entry, out: RunFolder) -> bool:
    """Whether a finished record has no image in `out`, though it should: lost in a power cut, or not copied before."""
    if record.file_name:
        return not out.has_image(record)
    try:
        return image_path(entry.record, entry.base).is_file()
    except (RecordError, OSError):
        return False


def _store(work: _Work, out: RunFolder | None, stage: str) -> Record:
    """Write the image, the pictures and the maps of a record, which then names its image, or says why it has none."""
    if out is None:
        return work.record
    name = image_name(work.record.id)
    images = [outcome.image for outcome in work.outcomes if outcome.image]
    if images:
        atomic.write_png(out.path / name, images[-1])
    elif work.record.file_name:
        try:
            _copy_image(work, out.path / name)
        except RecordError as error:
            name = ""
            if error.kind not in {failure.kind for failure in work.record.failures}:  # of the stage that looked for it
                work.fail(stage, error)
    else:
        name = ""
    for outcome in work.outcomes:
        for kind, draw in outcome.pictures.items():
            atomic.write_png(picture_path(out.path, work.record.id, kind), draw())
        if outcome.maps:
            atomic.write_bytes(maps_path(out.path, work.record.id), maps_bytes(outcome.maps))
    return work.record.replace(file_name=name) if name != work.record.file_name else work.record


def _copy_image(work: _Work, target: Path) -> None:
    """Copy the image that a record was given with, and the attention maps that lie beside it.

    Raises:
        RecordError: they cannot be read.
        RealignError: a copy cannot be written.
    """
    path = image_path(work.record, work.entry.base)
    maps = maps_path(path.parent, work.record.id)
    try:
        require_file(path)
        atomic.copy(path, target)
        if maps.is_file():
            atomic.copy(maps, maps_path(target.parent, work.record.id))
    except OSError as error:
        raise RecordError("unreadable_image", f"{path}: cannot be copied ({error.strerror})") from None


def _echo(record: Record, base: Path | None, pipe: RecordWriter) -> None:
    """Write one line to a pipe, where file names are absolute."""
    if record.file_name and base is not None:
        record = record.replace(file_name=str((base / record.file_name).absolute()))
    pipe.write(record)


def _in_shard(entries: Iterable[Entry], shard: Shard, ids: list[str]) -> Iterator[Entry]:
    """The entries of a shard; `ids` gets those of all."""
    for entry in entries:
        ids.append(entry.record.id)
        if shard.owns(entry.record.prompt_key):
            yield entry


def _batches(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while batch := list(islice(iterator, size)):
        yield batch
