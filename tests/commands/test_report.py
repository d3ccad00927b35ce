"""`realign report` as a user runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from report_folders import record, write_records, write_world

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_a_run_becomes_a_page(realign: Run, tmp_path: Path) -> None:
    write_world(tmp_path / "out")
    done = realign("report", "out", cwd=tmp_path)
    assert done.returncode == 3, "one prompt failed"
    assert done.stdout == ""
    told = done.stderr.splitlines()
    assert told[0].startswith("wrote report.html: 4 prompts, 1 of which failed, 0.") and told[1:] == [
        "open report.html"
    ]
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_json_and_assets(realign: Run, tmp_path: Path) -> None:
    write_records(tmp_path / "f", [record("a", "one")])
    done = realign("report", "f", "--out", "deep/r.html", "--assets", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    size = (tmp_path / "deep" / "r.html").stat().st_size
    images = {"page": "deep/r.html", "images": "deep/r-images", "bytes": size}
    assert json.loads(done.stdout) == {"command": "report", **images, "prompts": 1, "failed": 0}
    assert [path.name for path in (tmp_path / "deep" / "r-images").iterdir()] == ["a-0.png"]


def test_quiet(realign: Run, tmp_path: Path) -> None:
    write_records(tmp_path / "f", [record("a", "one")])
    done = realign("report", "f", "-q", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["report"], "Missing argument 'FOLDER...'"),
        (
            ["report", "none"],
            "realign report: none: no such folder; give folders that realign wrote, or one that holds them",
        ),
        (["report", "f", "--out", "page.pdf"], "realign report: --out page.pdf: a page ends in .html"),
    ],
)
def test_what_is_wrong_is_one_line(realign: Run, tmp_path: Path, words: list[str], told: str) -> None:
    write_records(tmp_path / "f", [record("a", "one")])
    done = realign(*words, cwd=tmp_path)
    assert done.returncode == 2 and told in " ".join(done.stderr.split())
