"""`realign compare` as a user runs it: folders of records and of evals, of any origin, in one table."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def write_eval(folder: Path, values: Mapping[str, float | None], passes: float | None = None) -> None:
    """A folder as `realign eval --out` leaves it, with what a comparison reads."""
    folder.mkdir()
    lines = [json.dumps({"id": i, "clip": value}) + "\n" for i, value in values.items()]
    (folder / "scores.jsonl").write_text("".join(lines))
    (folder / "metrics.json").write_text(json.dumps({"cost": {"in": {"passes": passes}}} if passes else {}))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    write_eval(tmp_path / "plain", {f"{i}": 0.2 for i in range(8)}, passes=1.0)
    write_eval(tmp_path / "better", {f"{i}": 0.4 for i in range(8)}, passes=2.0)
    write_eval(tmp_path / "theirs", {f"{i}": 0.1 if i else 0.9 for i in range(9)})
    return tmp_path


def test_evals_are_ranked_without_a_model(realign: Run, here: Path) -> None:
    done = realign("compare", "plain", "better", "theirs", "--preset", "sd15", "--out", "table", cwd=here)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.stdout.startswith("clip, n = 8 prompts; 1 that only some have are left out\n")
    assert [line[:3] for line in lines[2:5]] == [
        ["1", "better", "0.400"],
        ["2", "plain", "0.200"],
        ["3", "theirs", "0.200"],
    ]
    assert lines[2][-3:] == ["1.000", "0.023", "2.00"]  # it wins all of 8: p = 2/256, times 3 duels
    assert (here / "table" / "table.md").read_text().count("| better |") == 3
    assert r"1 & better & 0.400" in (here / "table" / "table.tex").read_text()
    (ranking,) = json.loads((here / "table" / "table.json").read_text())
    assert [one["system"] for one in ranking["standings"]] == ["better", "plain", "theirs"]
    assert (here / "table" / "table.png").stat().st_size > 1000


def test_folders_of_records_are_measured(realign: Run, coarse: Path, here: Path) -> None:
    """The same images twice have the same values; with what an eval found they share no metric."""
    (here / "again").symlink_to(coarse)
    done = realign("compare", coarse, "again", "--metrics", "clip,oracle", "--json", cwd=here)
    assert done.returncode == 0, done.stderr
    rankings = {one["column"]: one for one in json.loads(done.stdout)["rankings"]}
    assert {"clip", "all_correct"} <= set(rankings)
    (duel,) = rankings["clip"]["duels"]
    assert (duel["won"], duel["lost"], duel["win_rate"], duel["p"]) == (0, 0, 0.5, 1.0)
    assert [one["passes"] for one in rankings["clip"]["standings"]] == [1.0, 1.0]
    done = realign("compare", coarse, "plain", "--metrics", "oracle", cwd=here)
    assert done.returncode == 2 and "coarse, plain: no metric that all of them have" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plain", "plain"], "plain: given twice"),
        (["plain", "nowhere"], "nowhere"),
        (["plain", "broken"], "scores.jsonl:1: no 'id'; give what 'realign eval --out DIR' wrote"),
        (["plain", "others"], "plain, others: no prompt, by its id, of which all of them have a value"),
    ],
)
def test_what_is_wrong_is_one_line(realign: Run, here: Path, words: list[str], told: str) -> None:
    write_eval(here / "broken", {"0": 0.1})
    (here / "broken" / "scores.jsonl").write_text('{"clip": 0.1}\n')
    write_eval(here / "others", {"x": 0.1})
    done = realign("compare", *words, cwd=here)
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1, done.stderr
