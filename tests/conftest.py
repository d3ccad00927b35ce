"""`realign(...)` and `shell(...)` run the program as a user does: in its own processes, offline, without colour.

The processes are forked from one that has imported the libraries (support/forkserver.py).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chat_server import KEY, ChatServer

ROOT = Path(__file__).parents[1]
FORKSERVER = Path(__file__).parent / "support" / "forkserver.py"
Finished = subprocess.CompletedProcess[str]

_CACHE = tempfile.TemporaryDirectory()  # no test meets what an earlier run remembered

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "NO_COLOR": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHON": sys.executable,
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    "PYTHONWARNINGS": "ignore",
    "REALIGN_CACHE": _CACHE.name,
    "REALIGN_PRESET": "tiny",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runs", type=int, default=2, help="how many points to try of each kind in tests/faults")


_LONG = {
    *("test_benchmarks.py", "test_defaults.py", "test_fleet.py", "test_kill.py", "test_methods.py", "test_pipes.py"),
    *("test_readme.py", "test_train.py"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take a minute or more come first, so that in the end no worker waits long for another."""
    items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.fixture(scope="session")
def program() -> Iterator[list[str]]:
    """The words that start the program, to which those of a command are added."""
    with tempfile.TemporaryDirectory() as folder:  # a path of pytest's own may be too long for a socket
        address = f"{folder}/forkserver"
        server = subprocess.Popen([sys.executable, FORKSERVER, "serve", address], stdin=subprocess.PIPE)
        while not Path(address).exists():
            assert server.poll() is None
            time.sleep(0.01)
        yield [sys.executable, str(FORKSERVER), "run", address]
        server.communicate()


@pytest.fixture(scope="session")
def python(program: list[str]) -> str:
    """A Python that starts the program as `program` does when it is called with `-m realign_cli`."""
    return f"{program[-1]}.python"


@pytest.fixture(scope="session")
def realign(program: list[str]) -> Callable[..., Finished]:
    def run(*arguments: object, input: str | None = None, cwd: Path | None = None) -> Finished:
        command = [*program, *map(str, arguments)]
        stdin = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, **stdin)

    return run


@pytest.fixture(scope="session")
def shell(program: list[str]) -> Callable[[str, Path], Finished]:
    """Runs a line of shell in a folder; its exit code is that of the last command that failed."""

    def run(line: str, cwd: Path) -> Finished:
        script = f'set -o pipefail; realign() {{ {shlex.join(program)} "$@"; }}; {line}'
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=cwd)

    return run


@pytest.fixture(scope="session")
def coarse(realign: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four generated images; `prompts.txt` lies beside it. Read it, do not write into it."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "prompts.txt").write_text(
        "a red circle and a blue square\na green ring above a yellow triangle\na pink cross\nan orange square\n"
    )
    done = realign("generate", "--prompts", "prompts.txt", "--out", "coarse", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "coarse"


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ChatServer]:
    """A language model's server on loopback, which the environment names; its replies are cached in a folder of the
    test's own.
    """
    with ChatServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()
