"""What the benchmarks share: ways of doing one thing, run in turn, and the rows of docs/performance.md.

Only ratios are reported, each of two ways that ran one right after the other. A time is that of the processor where
one thread does the work, so that neighbours on the machine count little; of a whole command it is its user and system
time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PAIRS = 5
os.environ["REALIGN_PRESET"] = "tiny"  # commands that are measured run the embedded models
Times = Mapping[str, Sequence[float]]  # what each way took, of time or memory, round by round


@dataclass(frozen=True)
class Row:
    """One line of the table: "A / B", its value in every pair, what exactly B or A is, and the limit of the ratio."""

    what: str
    ratios: Sequence[float]
    peer: str = ""
    limit: str = ""

    def __str__(self) -> str:
        low, middle, high = (f"{x:.3g}" for x in (min(self.ratios), statistics.median(self.ratios), max(self.ratios)))
        spread = f"{middle} ({low} to {high})" if len(self.ratios) > 1 else middle
        return f"| {self.what} | {spread} | {len(self.ratios)} | {self.peer} | {self.limit} |"


def table(rows: Iterable[Row]) -> str:
    head = "| what | median (range) | n | peer | limit |\n|---|---|---|---|---|"
    return "\n".join([head, *map(str, rows)])


def in_turn(
    ways: Mapping[str, Callable[[], object]],
    *,
    quick: bool,
    rounds: int = PAIRS,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds of every way in each of the rounds, after one that does not count; if `quick`, in one round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 if quick else 1 + rounds):
        for name, way in ways.items():
            began = clock()
            way()
            times[name].append(clock() - began)
    return {name: seconds if quick else seconds[1:] for name, seconds in times.items()}


def ratios(times: Times, over: str, under: str) -> list[float]:
    return [a / b for a, b in zip(times[over], times[under], strict=True)]


_STARTER = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it once more
print(json.dumps([process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""


@dataclass(frozen=True)
class Used:
    """What a process used until it ended."""

    seconds: float  # of the processor, user and system
    megabytes: float  # at its peak


def used(command: Sequence[str | Path]) -> Used:
    """Run a command, whose standard output is thrown away.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    # Not from this process: what it holds itself counts as memory of what it starts.
    start = [sys.executable, "-S", "-c", _STARTER, *map(str, command)]
    done = subprocess.run(start, capture_output=True, text=True, check=True)
    code, seconds, kilobytes = json.loads(done.stdout)
    if code:
        raise RuntimeError(f"{command}: exit {code}\n{done.stderr}")
    return Used(seconds, kilobytes / 1024)


def realign(*arguments: str | Path) -> Used:
    return used([sys.executable, "-m", "realign_cli", *arguments])


def main(measure: Callable[[bool], list[Row]], only: Callable[[str], object] | None = None) -> None:
    """The command line of a script; `only` does one of its ways once, for a process whose peak memory is wanted."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="small and once: says that the script works, no more")
    if only:
        parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if only and arguments.only:
        only(arguments.only)
    else:
        sys.stdout.write(table(measure(arguments.quick)) + "\n")


def peaks(script: str, ways: Sequence[str]) -> Times:
    """Peak memory in MB of processes of their own for each of the ways that the script's `only` knows, in turn."""
    rounds = [{way: used([sys.executable, script, "--only", way]).megabytes for way in ways} for _ in range(PAIRS)]
    return {way: [each[way] for each in rounds] for way in ways}
