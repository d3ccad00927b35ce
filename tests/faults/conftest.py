"""`warm(...)` runs commands as processes forked from one that has imported everything; a fault may befall one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.warm import QUICK, Warm

PROMPTS = "a red circle and a blue square\na green ring above a yellow triangle\na pink cross\n"


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    started = Warm(tmp_path_factory.mktemp("warm"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def runs(pytestconfig: pytest.Config) -> int:
    """How many points to try of each kind: a few in the ordinary suite, `--runs N` in the long form."""
    return int(pytestconfig.getoption("--runs"))


@pytest.fixture(scope="session")
def world(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prompts.txt and coarse/, three images of them. Read it, do not write into it."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "prompts.txt").write_text(PROMPTS)
    ended = warm("generate", "--prompts", "prompts.txt", "--out", "coarse", *QUICK, cwd=folder)
    assert ended.code == 0, ended.stderr
    return folder
