"""`realign study` as a user runs it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from study_folders import answer_all, write_systems

from realign_cli.study.answers import Database
from realign_cli.study.design import read_study

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_a_study_from_folders_to_a_table(realign: Run, tmp_path: Path) -> None:
    write_systems(tmp_path)
    words = ("--against", "plain/", "structure/", "--out", "study/", "--raters", 3)
    done = realign("study", "make", "--in", "final/", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.splitlines() == [
        "wrote study: 5 prompts, 3 raters with 7 trials each",
        "next: realign study serve study",
    ]
    done = realign("study", "results", "study", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and "no answers that count yet" in done.stderr

    study = read_study(tmp_path / "study")
    database = Database(tmp_path / "study")
    answers = answer_all(study, lambda _, item, trial: item.right or item.images[0])
    for rater in study.raters[:2]:
        for answer in answers[rater.token]:
            database.save(rater, answer)
    database.close()
    done = realign("study", "results", "study", "--out", "table", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "alignment: Which image fits the text best? 10 answers of 2 raters on 5 prompts" in done.stdout
    assert re.search(r"^final +100.0 +100.0 to 100.0 *$", done.stdout, re.MULTILINE)
    assert "raters: 2 of 3 began, 2 answered everything, 0 left out" in done.stdout
    written = {path.name for path in (tmp_path / "table").iterdir()}
    assert written == {"table.md", "table.tex", "table.json", "table.png"}
    done = realign("study", "results", "study", "--json", cwd=tmp_path)
    data = json.loads(done.stdout)
    assert data["tallies"] == json.loads((tmp_path / "table/table.json").read_text())["tallies"]
    assert [one["checks_right"] for one in data["raters"]] == [2, 2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("make --in final --out study", "Missing option '--against'"),
        ("make --in final --against final --out study", "realign study make: final: given twice"),
        ("serve none", "realign study serve: none: no study in it"),
        ("results none", "realign study results: none: no study in it"),
    ],
)
def test_what_is_wrong_is_one_line(realign: Run, tmp_path: Path, words: str, told: str) -> None:
    done = realign("study", *words.split(), cwd=tmp_path)
    assert done.returncode == 2 and told in " ".join(done.stderr.split())
