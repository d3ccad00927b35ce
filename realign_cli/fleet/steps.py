"""Chains of commands of this program, each a process of its own, whose time and memory are measured.

Linux counts the memory that this process holds as it starts another as that one's own, so it should hold little.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from threading import Event
from typing import TYPE_CHECKING

from realign_cli.errors import RealignError
from realign_cli.files import atomic

if TYPE_CHECKING:
    from pathlib import Path

_FINISHED = (0, 3)  # exit codes; with 3 some records failed
_ACCOUNTS = "steps"
_UNIT = 1 if sys.platform == "darwin" else 1024  # of what the system says of memory, in bytes
_PULSE = 0.05  # seconds from one look at a process to the next


@dataclass(frozen=True)
class Ended:
    """A process that ended: exit code, the last line that it said, seconds by the clock, peak of memory in bytes."""

    code: int
    said: str
    seconds: float
    memory: int


Execute = Callable[[Sequence[str]], Ended]  # runs the command `realign WORDS`, here or elsewhere


@dataclass(frozen=True)
class Spent:
    """What the process of a command took: seconds by the clock, and its peak of main memory in bytes.

    Of one that went on with what another had begun, the seconds are not known.
    """

    seconds: float | None
    memory: int


@dataclass(frozen=True)
class Step:
    """A command that fills the folder `out`; {root}, {prompts} and {seed} in its words are filled in by `command`."""

    out: str
    words: tuple[str, ...]

    def command(self, root: Path, prompts: Path, seed: int, shared: Sequence[str] = ()) -> list[str]:
        """The words of its command line, the last of them `shared` ones."""
        places = {"{root}": f"{root}/", "{prompts}": str(prompts), "{seed}": str(seed)}
        return [_filled(word, places) for word in (*self.words, "--out", "{root}" + self.out)] + [*shared]


@dataclass
class Taken:
    """What the steps took, by their folders, and of every chain with a step that failed, why."""

    spent: dict[str, Spent] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def independent(chains: Mapping[str, Sequence[Step]]) -> list[dict[str, Sequence[Step]]]:
    """The chains in groups, of which no two share a step, so that each can be taken by another worker."""
    groups: list[dict[str, Sequence[Step]]] = []
    for name, chain in chains.items():
        near = [group for group in groups if any(not set(chain).isdisjoint(other) for other in group.values())]
        joined = {key: one for group in near for key, one in group.items()} | {name: chain}
        groups = [*(group for group in groups if group not in near), joined]
    return groups


def take(
    chains: Mapping[str, Sequence[Step]],
    root: Path,
    command: Callable[[Step], Sequence[str]],
    execute: Execute,
    told: Callable[[Step, Spent | None], None],
) -> Taken:
    """Take the steps of all chains below `root`, those that several have once, and those that were taken not again.

    A step is taken if all before it came to their end. `told` is called after each, with what it took now.
    """
    taken, broken = Taken(), dict[str, str]()
    for step in dict.fromkeys(step for chain in chains.values() for step in chain):
        before = {one.out for chain in chains.values() if step in chain for one in chain[: list(chain).index(step)]}
        folder, account, now = root / step.out, root / _ACCOUNTS / f"{step.out}.json", None
        words = command(step)
        spent = read_account(words, account) if folder.exists() else None
        try:
            if spent is None and not before & broken.keys():
                spent = now = run_step(words, account, execute, begun=folder.exists())
        except RealignError as error:
            broken[step.out] = str(error)
        if spent:
            taken.spent[step.out] = spent
        told(step, now)
    for name, chain in chains.items():
        for step in chain:
            if step.out in broken:
                taken.failed.setdefault(name, f"{step.out}: {broken[step.out]}")
    return taken


def run_step(words: Sequence[str], account: Path, execute: Execute, *, begun: bool) -> Spent:
    """Run `realign WORDS` and write into the file `account` what it took; `begun` is whether an earlier one was killed.

    Raises:
        RealignError: it failed; with the last line that it said.
    """
    ended = execute(words)
    if ended.code not in _FINISHED:
        raise RealignError(ended.said or f"exit code {ended.code}")
    spent = Spent(None if begun else round(ended.seconds, 2), ended.memory)
    account.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(account, {"command": list(words), **asdict(spent)})
    return spent


def read_account(words: Sequence[str], account: Path) -> Spent | None:
    """What the same command took, if it came to its end."""
    try:
        told = json.loads(account.read_text(encoding="utf-8"))
        return Spent(told["seconds"], int(told["memory"])) if told["command"] == list(words) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _filled(word: str, places: Mapping[str, str]) -> str:
    return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], word)


def execute_here(words: Sequence[str], stop: Event) -> Ended:
    """Run `realign WORDS` on this computer.

    Raises:
        KeyboardInterrupt: `stop` was set, and the process has been ended.
    """
    nothing, began = subprocess.DEVNULL, time.monotonic()
    with tempfile.TemporaryFile() as said:
        # In a process group of its own, Ctrl-C reaches it once, by way of this process, and so it ends in order.
        process = subprocess.Popen(
            [sys.executable, "-m", "realign_cli", *words], stdin=nothing, stdout=nothing, stderr=said, process_group=0
        )
        try:
            while not (found := os.wait4(process.pid, os.WNOHANG))[0]:  # which tells of this process alone
                if stop.wait(_PULSE):
                    raise KeyboardInterrupt
        except BaseException:
            process.terminate()
            process.wait()
            raise
        _, status, usage = found
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines() or [""]
    return Ended(process.returncode, lines[-1].strip(), time.monotonic() - began, usage.ru_maxrss * _UNIT)
