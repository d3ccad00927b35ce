"""A process that forks commands off and imports what they had to import: hundreds of real runs for one start-up.

It reads a run as a line of JSON and answers with one. The processes of a run form a pipe; one of them may get a signal
or a limit. Where in its life, is counted in calls that change files or write into a pipe, before and after each:
between them nothing changes that a later run could see.
"""

from __future__ import annotations

import gc
import importlib
import io
import itertools
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUICK = ("-q", "--batch-size", "2", "--set", "generator.steps=3")  # of three prompts the second batch is not full


@dataclass(frozen=True)
class Ended:
    """Of each process of a pipe the exit code, how many moments its life had, and how many of its writes into the pipe
    came through, up to a signal if one came; of all, what they said.
    """

    codes: list[int]
    moments: list[int]
    writes: list[int]
    cold: bool  # some of the moments were spent on imports
    stderr: str

    @property
    def code(self) -> int:
        return self.codes[-1]


class Warm:
    def __init__(self, folder: Path) -> None:
        self._stderr = folder / "stderr"
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self,
        *command: object,
        cwd: Path,
        pipe: Sequence[Sequence[object]] = (),
        victim: int = 0,
        at: int = 0,
        signals: Sequence[int] = (),
        most_bytes: int | None = None,
        environment: Mapping[str, str | None] | None = None,
    ) -> Ended:
        """Run a command, or a `pipe` of them; what befalls its process `victim` is told in warm.py."""
        self._stderr.write_text("")
        run = {
            "commands": [[str(word) for word in one] for one in pipe or [command]],
            "cwd": str(cwd),
            "stderr": str(self._stderr),
            "victim": victim,
            "at": at,
            "signals": list(signals),
            "most_bytes": most_bytes,
            "environment": dict(environment or {}),
        }
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(run) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()), stderr=self._stderr.read_text())

    def measured(
        self, *command: object, cwd: Path, fills: Sequence[str], pipe: Sequence[Sequence[object]] = ()
    ) -> Ended:
        """Run what `fills` some folders undisturbed, and as later runs will: without an import."""
        while (ended := self(*command, cwd=cwd, pipe=pipe)).cold:
            for folder in fills:
                shutil.rmtree(cwd / folder, ignore_errors=True)
        return ended

    def close(self) -> None:
        self._process.communicate()


_CALLS = {
    "mkdir",
    "rmdir",
    "write",
    "flush",
    "fsync",
    "replace",
    "link",
    "unlink",
    "truncate",
    "execute",
    "executemany",
}
_TRIED: set[str] = set()  # to be imported
_MODULES = {"posix", "io", "_io"}


def main() -> None:
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_run(**json.loads(line))) + "\n")
        sys.stdout.flush()


def _run(commands: Sequence[Sequence[str]], cwd: str, stderr: str, victim: int, **fate: Any) -> dict[str, Any]:
    """What `Ended` tells of all processes."""
    with tempfile.TemporaryDirectory() as reports:
        paths = [Path(reports, str(i)) for i in range(len(commands))]
        children, stdin = [], os.open(os.devnull, os.O_RDONLY)
        for i, command in enumerate(commands):
            following, stdout = os.pipe() if i < len(commands) - 1 else (None, os.open(os.devnull, os.O_WRONLY))
            child = os.fork()
            if not child:
                if following is not None:
                    os.close(following)
                os.chdir(cwd)
                _be(command, stdin, stdout, stderr, paths[i], **(fate if i == victim else {}))
            children.append(child)
            os.close(stdin)
            os.close(stdout)
            stdin = following
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        told = [json.loads(path.read_text()) if path.exists() else {} for path in paths]
    missed = {name for one in told for name in one.get("modules", ())} - _TRIED
    for name in missed:
        with suppress(Exception):
            importlib.import_module(name)
    _TRIED.update(missed)
    gc.freeze()  # else every process goes through all objects of the libraries, which copies their memory
    counts = {key: [one.get(key, 0) for one in told] for key in ("moments", "writes")}
    return {"codes": codes, **counts, "cold": bool(missed)}


def _be(
    command: Sequence[str],
    stdin: int,
    stdout: int,
    stderr: str,
    report: Path,
    signals: Sequence[int] = (),
    at: int = 0,
    most_bytes: int | None = None,
    environment: Mapping[str, str | None] | None = None,
) -> None:
    """Become the program: `signals` come one by one from moment `at` on; no file may grow beyond `most_bytes`; of the
    `environment`, what is None is not set.
    """
    code = 70
    try:
        log = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for source, target in ((stdin, 0), (stdout, 1), (log, 2)):
            os.dup2(source, target)
            os.close(source)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        sys.argv = ["realign", *command]
        for key, value in (environment or {}).items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
        before = set(sys.modules)

        from realign_cli.app import app

        count = itertools.count()
        written: list[int] = []

        def moment(_frame: object, event: str, function: Callable[..., object]) -> None:
            if event in ("c_call", "c_return") and _changes_files(function):
                now = next(count)  # threads come here
                if event == "c_return" and function is os.write:
                    written.append(now)
                if at <= now < at + len(signals):
                    report.write_text(json.dumps({"writes": len(written)}))  # what SIGKILL leaves
                    os.kill(os.getpid(), signals[now - at])

        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
        threading.setprofile(moment)
        sys.setprofile(moment)
        try:
            app(list(command), prog_name="realign")
        except SystemExit as ended:
            code = ended.code or 0
        sys.setprofile(None)
        sys.stdout.flush()
        sys.stderr.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        end = {"moments": next(count), "writes": len(written), "modules": sorted(sys.modules.keys() - before)}
        report.write_text(json.dumps(end))
    except BaseException:
        import traceback

        sys.setprofile(None)
        traceback.print_exc()
    finally:
        os._exit(code)


def _changes_files(function: Callable[..., object]) -> bool:
    owner = getattr(function, "__self__", None)
    return function.__name__ in _CALLS and (
        isinstance(owner, io.IOBase | sqlite3.Connection) or getattr(owner, "__name__", "") in _MODULES
    )


if __name__ == "__main__":
    main()
