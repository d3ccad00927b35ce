"""What a person sees while a command runs, on stderr: progress, notices, the summary. For programs: JSON on stdout."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

console = Console(stderr=True, highlight=False)
_LIBRARIES = ("diffusers", "transformers")  # they have handlers of their own, and their warnings name no record


@dataclass
class Verbosity:
    """-q leaves only errors; -v adds log messages, and what libraries warn of."""

    quiet: bool = False
    verbose: bool = False

    def apply(self) -> None:
        level = logging.ERROR if self.quiet else logging.DEBUG if self.verbose else logging.WARNING
        theirs = logging.WARNING if self.verbose else logging.ERROR
        logging.basicConfig(level=theirs, handlers=[_Handler()], format="%(message)s", force=True)
        logging.captureWarnings(True)
        logging.getLogger("realign_cli").setLevel(level)
        for library in _LIBRARIES:
            os.environ[f"{library.upper()}_VERBOSITY"] = logging.getLevelName(theirs).lower()  # read with its import
            logging.getLogger(library).setLevel(theirs)


class _Handler(RichHandler):
    """Shows log lines, which may quote anything, so that none can steer the terminal."""

    def __init__(self) -> None:
        super().__init__(console=console, show_time=False, show_path=False)

    def render_message(self, record: logging.LogRecord, message: str) -> ConsoleRenderable:
        trace = (record.exc_text or "").splitlines()
        return Text("\n").join(map(plain, [record.getMessage(), *trace]))


class Advance(Protocol):
    """Moves a progress bar on by so many items."""

    def __call__(self, count: int) -> None: ...


def _bar(*columns: ProgressColumn, quiet: bool) -> Progress:
    # rich's own word on terminals can be overruled by FORCE_COLOR, which is about colours.
    return Progress(*columns, console=console, transient=True, disable=quiet or not sys.stderr.isatty())


@contextmanager
def progress(label: str, total: int | None, *, quiet: bool) -> Iterator[Advance]:
    """A bar with rate and time left, on a terminal only."""
    bar = _bar(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        quiet=quiet,
    )
    with bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def transfer(name: str, total: int | None, begun: int, *, quiet: bool) -> Iterator[Advance]:
    """A bar over the bytes of a file, of which `begun` are there, on a terminal only."""
    bar = _bar(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        quiet=quiet,
    )
    with bar:
        task = bar.add_task(name, total=total, completed=begun)
        yield lambda count: bar.advance(task, count)


class ReportStep(Protocol):
    """Shows an optimiser step: its numbers by name, and the samples per second."""

    def __call__(self, numbers: Mapping[str, float | None], samples_per_s: float) -> None: ...


@contextmanager
def training_progress(steps: int, start: int, *, quiet: bool) -> Iterator[ReportStep]:
    """A bar over optimiser steps with the numbers that tell whether training gets anywhere, on a terminal only."""
    bar = _bar(
        SpinnerColumn(),
        TextColumn("train"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        quiet=quiet,
    )
    shown = {"loss/reward": "loss", "loss/pretraining": "L_pre", "caption_reward": "Eq. 4"}
    with bar:
        task = bar.add_task("", total=steps, completed=start)

        def advance(numbers: Mapping[str, float | None], samples_per_s: float) -> None:
            known = [f"{label} {numbers[name]:.3g}" for name, label in shown.items() if numbers.get(name) is not None]
            bar.update(task, advance=1, description="  ".join([*known, f"{samples_per_s:.2f} samples/s"]))

        yield advance


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task) -> Text:  # type: ignore[no-untyped-def]  # rich's Task, imported by rich itself
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "-/s")


@dataclass
class StageTime:
    """Images that a stage worked on, and the seconds that this took."""

    images: int = 0
    seconds: float = 0.0


@dataclass
class Summary:
    """What a command did, for the line at its end."""

    command: str
    records: int = 0
    kept: int = 0
    failed: int = 0
    dropped: int = 0  # finished records of `out` that are not in the input any more
    passes: float = 0  # of the generator, as far as the records know what was spent on them
    steps: float = 0
    seconds: float = 0.0
    stages: dict[str, StageTime] = field(default_factory=dict)
    out: str | None = None
    complete: bool = True  # or other workers have yet to do their shards of `out`
    next_command: str | None = None
    failures: list[str] = field(default_factory=list)

    def show(self, *, quiet: bool, as_json: bool) -> None:
        if as_json:
            write_json(asdict(self))
            return
        for line in self.failures[:10]:
            console.print(plain(line), soft_wrap=True)
        if len(self.failures) > 10:
            console.print(f"... and {len(self.failures) - 10} more failures, in the records' 'failures'")
        if quiet:
            return
        passes = f"{self.passes:g}" if self.passes else ""
        cells = [self.command, str(self.records), str(self.kept), str(self.failed), passes, f"{self.seconds:.1f} s"]
        columns = ["command", "records", "done before", "failed", "passes", "time"]
        console.print(table(columns, [cells]), soft_wrap=True)
        if self.out:
            console.print(plain(f"wrote {self.out}"), soft_wrap=True)
        if self.dropped:
            line = f"{self.out}: {self.dropped} finished records are not in the input any more and were dropped"
            console.print(plain(line), soft_wrap=True)
        if self.next_command:
            console.print(plain(f"next: {self.next_command}"), soft_wrap=True)


def write_json(data: Any) -> None:
    """Write what --json asks for: one line on stdout."""
    sys.stdout.write(json.dumps(data, allow_nan=False) + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table that shows every cell whole; print it with `soft_wrap=True`."""
    made = _Whole(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        made.add_row(*(plain(cell) for cell in row))
    return made


class _Whole(Table):
    """As wide as its cells want: a narrow terminal breaks its lines, where rich would cut numbers."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wanted = self.__rich_measure__(console, options.update(width=sys.maxsize)).maximum
        return super().__rich_console__(console, options.update(width=max(wanted, options.max_width)))


def plain(text: str) -> Text:
    """Text that cannot steer a terminal: one line, without control and formatting characters or markup."""
    return Text("".join(c for c in re.sub(r"\s", " ", text) if unicodedata.category(c) not in ("Cc", "Cf", "Cs")))
