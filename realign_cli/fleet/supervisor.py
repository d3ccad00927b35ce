"""Workers side by side: several pieces of work at once, and commands that are started again when they are killed."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event

from realign_cli.console import console, plain, progress
from realign_cli.errors import RealignError
from realign_cli.runs.folder import clear
from realign_cli.runs.lock import folder_lock
from realign_cli.runs.status import lines

Work = Callable[[Event], int]  # what one worker does, and its exit code; it ends early once the event is set

_DEATHS = 3  # in a row, with nothing achieved in between, after which a worker is given up
_ASKED = (-signal.SIGINT, -signal.SIGTERM)  # whoever sends these wants no other worker in its place
_PULSE, _LOOK = 0.2, 1.0  # seconds from one look at a process, and at all work, to the next


def supervise(
    works: Sequence[Work], folders: Sequence[Path], records: int, *, overwrite: bool, quiet: bool
) -> list[int]:
    """Do all of the works at once, under a bar of the `records` that each of `folders` will hold; their exit codes.

    With `overwrite` the folders are cleared before any worker begins.

    Raises:
        UsageError: a folder that is to be cleared is in use, or no run made it.
        RealignError: as `together`.
    """
    for folder in folders if overwrite else ():
        with folder_lock(folder):
            clear(folder)
    shown = 0
    with progress("run", len(folders) * records, quiet=quiet) as advance:

        def watch() -> None:
            nonlocal shown
            now = sum(map(lines, folders))
            advance(now - shown)
            shown = now

        return run_concurrently(works, watch)


def run_concurrently(works: Sequence[Work], watch: Callable[[], None]) -> list[int]:
    """What each of `works` returns; they run at once, in threads of this process, while `watch` is called regularly.

    Each is given an event, which is set where they shall stop because this process was interrupted. If some raise, the
    others go on to their end before the first error is raised here.
    """
    stop = Event()
    with ThreadPoolExecutor(len(works)) as pool:
        started = [pool.submit(work, stop) for work in works]
        try:
            while wait(started, timeout=_LOOK).not_done:
                watch()
            watch()
        finally:
            stop.set()
    return [one.result() for one in started]


def restart_until_done(command: Sequence[str], achieved: Callable[[], object], stop: Event) -> int:
    """Run a command, again whenever a signal kills it, and return its exit code.

    `achieved` gives what changes whenever the command gets on.

    Raises:
        RealignError: it was killed several times in a row without getting on.
    """
    deaths, before = 0, achieved()
    while deaths < _DEATHS:
        code = _run(command, stop)
        if code >= 0 or code in _ASKED or stop.is_set():
            return code
        now = achieved()
        deaths, before = (1 if now != before else deaths + 1), now
        console.print(plain(f"a worker was ended by {signal.Signals(-code).name}"), soft_wrap=True)
    raise RealignError(f"a worker was killed {_DEATHS} times in a row on the same records: {' '.join(command)}")


def _run(command: Sequence[str], stop: Event) -> int:
    # In a process group of its own, Ctrl-C reaches it once, by way of this process, and so it ends in order.
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0) as process:
        while process.poll() is None:
            if stop.wait(_PULSE):
                process.terminate()
                process.wait()
    return process.returncode
