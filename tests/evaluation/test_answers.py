"""Answers outlive the process, several processes share them, and rows lie in a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from realign_cli.errors import RealignError
from realign_cli.evaluation import answers
from realign_cli.evaluation.answers import Cache
from realign_cli.evaluation.feature_rows import RowFile

WRITER = """
import sys
from pathlib import Path
from realign_cli.evaluation import answers
from realign_cli.evaluation.answers import Cache
memory = Cache(Path(sys.argv[1]))
for i in range(50):
    memory.put({f"{sys.argv[2]} {i}": b"own", f"both {i}": bytes([i])})
"""


def test_answers_outlive_the_process_that_wrote_them(tmp_path: Path) -> None:
    memory = Cache(tmp_path / "new")
    memory.put({"a": b"1", "b": b""})
    memory.put({"a": b"2"})
    memory.close()
    again = Cache(tmp_path / "new")
    assert (again.get("a"), again.get("b"), again.get("c")) == (b"1", b"", None)


def test_another_version_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cache(tmp_path).put({"a": b"1"})
    monkeypatch.setattr(answers, "__version__", "99")
    assert Cache(tmp_path).get("a") is None


def test_several_processes_at_once(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    memory = Cache(tmp_path)
    assert all(memory.get(f"{name} {i}") == b"own" for name in "abc" for i in range(50))
    assert all(memory.get(f"both {i}") == bytes([i]) for i in range(50))


def test_what_is_no_cache_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "eval.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(RealignError, match=r"eval.sqlite: file is not a database; delete this file or give --cache"):
        Cache(tmp_path)
    with pytest.raises(RealignError, match="cannot make the folder"):
        Cache(tmp_path / "eval.sqlite")


def test_rows_in_any_order(tmp_path: Path) -> None:
    rows = RowFile(tmp_path)
    assert rows.matrix().shape == (0, 0)
    for i in (2, 0, 1):
        rows.put(i, np.array([i, 10 * i], "<f4").tobytes())
    assert rows.matrix().tolist() == [[0, 0], [1, 10], [2, 20]]
    assert isinstance(rows.matrix(), np.memmap) and not list(tmp_path.iterdir())
