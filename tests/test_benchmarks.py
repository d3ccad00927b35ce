"""The benchmarks still work: each runs as small as it goes, with its checks that both sides give the same results."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from scipy.stats import spearmanr

from realign_cli.records import PhraseMap, Record, WordMap
from realign_cli.tinyworld.scenes import Scene, Thing, render

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
PAGE = ROOT / "docs" / "performance.md"
ROW = re.compile(r"\| (?P<what>.+?) \| (?P<median>[\d.e+-]+)( \(.+ to .+\))? \| (?P<n>\d+) \|")


@pytest.fixture(scope="module")
def everything() -> dict[str, object]:
    sys.path.insert(0, str(FOLDER))
    try:
        return runpy.run_path(str(FOLDER / "all.py"))
    finally:
        sys.path.remove(str(FOLDER))


def test_every_script_runs(everything: dict[str, object]) -> None:
    page = PAGE.read_bytes()
    ours = ("REALIGN_PRESET", "PYTHONSAFEPATH")  # the second is set where a test ran a command in this process
    plain = {key: value for key, value in os.environ.items() if key not in ours}
    done = subprocess.run([sys.executable, FOLDER / "all.py", "--quick"], env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert PAGE.read_bytes() == page, "a quick run is no measurement"
    tables = dict(zip(everything["SCRIPTS"], done.stdout.strip().split("\n\n"), strict=True))
    for script, text in tables.items():
        rows = [ROW.match(line) for line in text.splitlines()[3:]]
        assert text.startswith(script) and rows and all(rows), text
        assert all(float(row["median"]) and row["n"] == "1" for row in rows), text


def test_the_memory_of_a_process_is_its_own(everything: dict[str, object]) -> None:
    """Linux would give it the peak of the process that starts it."""
    held = bytearray(b"1") * 300_000_000
    used = sys.modules["ratios"].used  # which all.py imports
    small = used([sys.executable, "-c", "pass"]).megabytes
    large = used([sys.executable, "-c", "held = bytearray(b'1') * 100_000_000"]).megabytes
    assert len(held) > 0 and 0 < small < 100 < large < 200


def test_the_page_has_a_place_for_the_table_of_every_script(everything: dict[str, object]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    row = everything["Row"]("a / b", [3.0, 1.0, 2.0], "peer", "1")
    for script in everything["SCRIPTS"]:
        written = everything["rewritten"](page, script, [row], "A machine.")
        before, _, rest = page.partition(f"<!-- {script} -->")
        assert written.startswith(before) and written.endswith(rest.partition("<!-- end -->")[2])
        assert "| a / b | 2 (1 to 3) | 3 | peer | 1 |" in written
    with pytest.raises(ValueError, match="0 places"):
        everything["rewritten"](page, "unknown", [row], "")


def test_the_verifier_tells_faults_apart_and_counts_them() -> None:
    verifier = runpy.run_path(str(FOLDER / "verifier.py"))
    red, blue = Thing("red", "circle", 16, 16, 10), Thing("blue", "square", 46, 20, 10)
    again = replace(red, y=48)
    found = [
        verifier["fault"](Image.fromarray(render(Scene(things, "white"))), "a red circle and a blue square")
        for things in (
            (red, blue),
            (red, blue, again),
            (red, blue, replace(again, shape="ring")),
            (replace(red, colour="blue"), replace(blue, colour="red")),
            (red, replace(blue, shape="cross")),
            (red, blue, replace(again, x=-2)),  # its right half is in the picture
        )
    ]
    right, malformed, missing, bound, alike, other = (verifier["RIGHT"], *verifier["WRONG"])
    assert found == [right, alike, other, bound, missing, malformed]
    rows = verifier["table"]([(1.0, right), (0.96, right), (0.5, right), (0.97, alike), (0.1, missing)])
    shares = [row.split(" | ")[1] for row in rows[2:]]
    assert [share.split(" (")[0] for share in shares[:5]] == ["60%", "67%", "67%", "none", "0%"]
    assert [share.rpartition("= ")[2][0] for share in shares[:5]] == ["5", "3", "3", "0", "1"]
    assert shares[1].startswith("67% (21% to 94%")  # Wilson's interval of 2 of 3
    expected = spearmanr([1, 0.96, 0.5, 0.97, 0.1], [1, 1, 1, 0, 0]).statistic
    assert float(shares[-1].split()[0]) == pytest.approx(expected, abs=0.005)


def test_shares_of_maps_are_compared_by_image_and_by_what_was_mended() -> None:
    maps = runpy.run_path(str(FOLDER / "attention_maps.py"))
    place = {"words": "red", "place": (0, 3)}
    attribute = WordMap(**place, before=0.2, after=0.3)
    known = PhraseMap(**place, before=0.1, after=0.5, area=0.1, attributes=[attribute])
    record = Record(id="1", text="red", maps=[known, known.model_copy(update={"after": 0.7})])
    case = maps["case"](record, False, True)
    assert case.shares == {"phrases": pytest.approx((0.1, 0.6)), "attributes": pytest.approx((0.2, 0.3))}
    unknown = known.model_copy(update={"before": None})
    for own in (None, [], [known.model_copy(update={"attributes": []})], [unknown]):
        assert maps["case"](record.replace(maps=own), False, True) is None
    alike = {"phrases": (0.1, 0.2), "attributes": (0.2, 0.2)}
    stayed = replace(case, shares=alike, right_after=False)
    text = maps["table"]([case, case, stayed, stayed, replace(stayed, right_before=True)])
    assert "n = 5 refined images; masks are 10.0 (10.0 to 10.0) % of them" in text
    assert "| attributes | 20.0 (20.0 to 20.0) | 24.0 (20.0 to 28.0) | +4.0 (+0.0 to +8.0) |" in text
    assert "mended (n = 2) | not mended (n = 2)" in text
    assert "| phrases, after | 60.0 (60.0 to 60.0) | 20.0 (20.0 to 20.0) | +40.0 (+40.0 to +40.0) |" in text
    assert "| phrases, after, of an even map's | 600.0 (600.0 to 600.0) | 200.0 (200.0 to 200.0) | +400.0 (" in text
    assert "| attributes, gain | none | 0.0 (0.0 to 0.0) | none |" in maps["table"]([stayed])


LAST = {"precision": "0 of 2", "train": "yes", "judges": "100%"}


@pytest.mark.parametrize("part", ["precision", "refine", "memory", "train", "judges"])
def test_what_a_gpu_shows_runs_on_small_shapes(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    bench = importlib.import_module("gpu")
    head, rows = bench.measured(part, "cpu", small=True, minutes=5)
    columns = head.split(" | ")
    assert len(rows) > 1 and all(len(row) == len(columns) for row in rows)
    assert all(float(row[1]) >= 0 and row[-1] == LAST.get(part, row[-1]) for row in rows)
    assert bench.table(head, rows).count("\n") == len(rows) + 1


def test_a_part_begins_nothing_once_its_minutes_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    bench = importlib.import_module("gpu")
    _, rows = bench.measured("judges", "cpu", small=True, minutes=0)
    assert [row[1:] for row in rows] == [["not run: no time was left"]] * len(bench.LOOKS)
