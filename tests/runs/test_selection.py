"""Of each prompt the best records are kept, whatever order draws come in; nothing is lost, and one prompt is held."""

from __future__ import annotations

import io
import json
import sys
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from realign_cli.data.records import METADATA, Entry, read_records
from realign_cli.errors import UsageError
from realign_cli.records import Caption, Cost, Failure, Record, Selection
from realign_cli.runs.folder import RunFolder
from realign_cli.runs.runner import run_map
from realign_cli.runs.selection import Choice
from realign_cli.stages.select import Select, number

FAILED = [Failure(stage="generate", kind="not_finite", message="no numbers")]


def draw(record_id: str, reward: float | None, prompt: str = "a", **keys: object) -> Record:
    caption = None if reward is None else Caption(text="x", reward=reward)
    return Record(id=record_id, text="x", prompt_id=prompt, caption=caption, **keys)  # type: ignore[arg-type]


def entries(*records: Record) -> Iterator[Entry]:
    return (Entry(record, f"f:{number}") for number, record in enumerate(records, 1))


def kept(*records: Record, by: str = "caption.reward", top: int = 1) -> list[str]:
    return [entry.record.id for entry in Choice(by, top)(entries(*records))]


def test_the_highest_of_each_prompt_keeps_its_id_and_says_why() -> None:
    others = [Record(id="b", text="y", caption=Caption(text="y", reward=0.1))]
    best, other = Choice("caption.reward", 1)(entries(draw("a", 0.2), draw("a-1", 0.9), draw("a-2", -0.3), *others))
    assert (best.record.id, best.record.prompt_id, best.place) == ("a-1", "a", "f:2")
    assert best.record.select == Selection(by="caption.reward", value=0.9, of=3)
    assert (other.record.id, other.record.select) == ("b", Selection(by="caption.reward", value=0.1, of=1))


def test_of_equal_ones_the_earlier_draw_in_whatever_order_they_come() -> None:
    draws = [draw("a", 0.1), draw("a-2", 0.9), draw("a-10", 0.9)]
    assert kept(*draws) == kept(*reversed(draws)) == ["a-2"]
    assert kept(draw("a-1", 0.5), draw("a", 0.5)) == ["a"]


def test_several_stay_in_the_order_of_the_input() -> None:
    draws = [draw("a", 0.1), draw("a-1", 0.8), draw("a-2", 0.3), draw("a-3", 0.9)]
    assert kept(*draws, top=2) == ["a-1", "a-3"]
    assert kept(*draws, top=9) == ["a", "a-1", "a-2", "a-3"]


def test_a_failed_draw_is_passed_over_and_a_failed_prompt_is_not() -> None:
    bad = [draw("a", 0.9, failures=FAILED), draw("a-1", None, failures=FAILED)]
    assert kept(*bad, draw("a-2", 0.1), top=2) == ["a-2"]
    assert kept(*bad, top=2) == ["a"]


@pytest.mark.parametrize(
    ("by", "found"),
    [
        ("caption.reward", 0.9),
        ("mine", 3),
        ("boxes.1.0", 7.5),
        ("boxes.2", None),
        ("boxes.x", None),
        ("caption", None),
        ("caption.text", None),
        ("caption.reward.x", None),
        ("flag", None),
        ("failed", None),  # nothing that is written in the record
        ("seed", None),
        ("", None),
    ],
)
def test_any_number_of_the_record(by: str, found: float | None) -> None:
    assert number(draw("a", 0.9, mine=3, boxes=[[1], [7.5]], flag=True), by) == found


@pytest.mark.parametrize(
    ("by", "complaint"),
    [
        ("caption.reward", "f:2: no 'caption'; run 'realign caption-reward' first"),
        ("refine.final.reward", "f:1: no 'refine'; run 'realign refine' first"),
        ("caption.text", "f:1: no number at 'caption.text'; --by names one of each record, as caption.reward"),
        ("sharpness", "f:1: no number at 'sharpness'; --by names one of each record, as caption.reward"),
    ],
)
def test_what_a_record_lacks_is_named_with_who_adds_it(by: str, complaint: str) -> None:
    with pytest.raises(UsageError) as error:
        kept(draw("a", 0.5), draw("a-1", None), by=by)
    assert str(error.value) == complaint


def spent(passes: float, steps: float | None = None) -> Cost:
    return Cost(passes=passes, steps=steps)


@pytest.mark.parametrize(
    ("costs", "top", "shares"),
    [
        ([spent(1, 20), spent(1, 20), spent(2, 70)], 1, [spent(4, 110)]),
        ([spent(1, 20), spent(1, 20), spent(2, 70)], 2, [spent(2, 55)] * 2),
        ([spent(1, 20), spent(1, 20), spent(2, 71)], 3, [spent(4 / 3, 37)] * 3),
        ([spent(1, 20), spent(1), spent(1, 20)], 1, [spent(3)]),
        ([spent(1, 20), None, spent(1, 20)], 1, [None]),
        ([None, None, None], 2, [None, None]),
    ],
)
def test_what_was_spent_on_those_left_out_is_shared(
    costs: list[Cost | None], top: int, shares: list[Cost | None]
) -> None:
    """All that was spent is somewhere, and as often as it was."""
    draws = [draw(f"a-{i}", i / 10, cost=cost, file_name="a.png") for i, cost in enumerate(costs)]
    found = [entry.record for entry in Choice("caption.reward", top)(entries(*draws))]
    assert [record.cost for record in found] == shares
    assert [type(record.cost.passes) for record in found if record.cost] == [type(s.passes) for s in shares if s]


def test_a_failed_prompt_has_cost_what_it_has() -> None:
    """An image that the generator could not draw counts none."""
    failed = [draw("a", None, failures=FAILED), draw("a-1", 0.5, failures=FAILED, cost=spent(1, 20), file_name="a.png")]
    (passed,) = Choice("caption.reward", 1)(entries(*failed))
    assert (passed.record.id, passed.record.cost) == ("a", spent(1, 20))


def test_prompts_that_come_again_are_refused() -> None:
    with pytest.raises(UsageError, match="f:3: prompt 'a' comes again after others; sort the records by prompt"):
        kept(draw("a", 0.5), draw("b", 0.5, "b"), draw("a-1", 0.9))


def test_records_of_one_prompt_are_held() -> None:
    alive: set[int] = set()
    most = 0

    def many() -> Iterator[Entry]:
        for i in range(300):
            for j in range(4):
                entry = Entry(draw(f"{i}-{j}" if j else str(i), j / 10, str(i)), f"f:{i}")
                alive.add(4 * i + j)
                weakref.finalize(entry, alive.discard, 4 * i + j)
                yield entry

    for entry in Choice("caption.reward", 1)(many()):
        most = max(most, len(alive))
        assert entry.record.id.endswith("-3")
    assert 4 <= most <= 12


class TestScores:
    def write(self, folder: Path, *lines: object) -> Path:
        (folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder / "scores.jsonl"

    def test_a_column_of_an_evaluation(self, tmp_path: Path) -> None:
        file = self.write(tmp_path, {"id": "a", "clip": 0.3, "relation": None}, {"id": "a-1", "clip": 1})
        (best,) = Choice("clip", 1, file)(entries(draw("a", 0.9), draw("a-1", 0.1)))
        assert (best.record.id, best.record.select) == ("a-1", Selection(by="clip", value=1, of=2))
        for by in ("relation", "caption.reward"):
            with pytest.raises(
                UsageError, match=rf"f:1: no number for 'a' under '{by}' in .*scores.jsonl; run 'realign"
            ):
                list(Choice(by, 1, file)(entries(draw("a", 0.9), draw("a-1", 0.1))))

    def test_what_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"scores.jsonl: No such file or directory; give the scores.jsonl of"):
            Choice("clip", 1, tmp_path / "scores.jsonl")
        with pytest.raises(UsageError, match=r"scores.jsonl:2: no 'id'; give the scores.jsonl of"):
            Choice("clip", 1, self.write(tmp_path, {"id": "a"}, [1]))
        (tmp_path / "scores.jsonl").write_text("{")
        with pytest.raises(UsageError, match=r"scores.jsonl:1: not a JSON record"):
            Choice("clip", 1, tmp_path / "scores.jsonl")


def select(out: Path, records: Iterable[Record], *, final: bool) -> int:
    """As the command does; how many finished records went."""
    choice = Choice("caption.reward", 1)
    stdout, sys.stdout = sys.stdout, io.StringIO()
    try:
        with RunFolder.open(out, {}) as folder:
            chosen, left_out = choice(entries(*records)), choice.left_out
            made = run_map(chosen, [Select()], out=folder, batch_size=2, final=final, left_out=left_out, quiet=True)
            return made.dropped
    finally:
        sys.stdout = stdout


@pytest.mark.parametrize("final", [False, True])
def test_another_best_takes_the_place_of_the_one_before(tmp_path: Path, final: bool) -> None:
    """Also through a pipe, where what does not come stays."""
    first = [draw("a", 0.5), draw("a-1", None, failures=FAILED), draw("b", 0.1, "b"), draw("b-1", 0.2, "b")]
    assert select(tmp_path, first, final=final) == 0
    assert [entry.record.id for entry in read_records(str(tmp_path))] == ["a", "b-1"]
    before = (tmp_path / METADATA).read_bytes()
    assert select(tmp_path, first, final=final) == 0
    assert (tmp_path / METADATA).read_bytes() == before
    assert select(tmp_path, [draw("a", 0.5), draw("a-1", 0.9)], final=final) == (2 if final else 1)
    assert [entry.record.id for entry in read_records(str(tmp_path))] == (["a-1"] if final else ["a-1", "b-1"])
