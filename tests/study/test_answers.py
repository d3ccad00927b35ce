"""Answers: what is one, how they are kept, and what files of raters may hold."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from study_folders import drawn_study

from realign_cli.errors import RealignError, RecordError
from realign_cli.study.answers import Answer, Database, parse, read_answers
from realign_cli.study.design import DATABASE, FILES

STUDY = drawn_study(prompts=4, raters=2)
RATER = STUDY.raters[0]
FIRST = RATER.trials[0].images[0]


def line(**changes: Any) -> dict[str, Any]:
    return {"trial": 0, "question": "alignment", "choice": FIRST, "ms": 1500, **changes}


@pytest.mark.parametrize(
    "data",
    [
        *([], None, "x", {}, line(trial=-1), line(trial=99), line(trial="0"), line(trial=True)),
        *(line(question="beauty"), line(choice="other.png"), line(choice=1), line(ms=-1), line(ms=2**60), line(more=1)),
    ],
    ids=str,
)
def test_what_is_no_answer(data: Any) -> None:
    with pytest.raises(RecordError):
        parse(data, STUDY, RATER)


def test_none_of_them_is_an_answer_where_all_are_shown() -> None:
    assert parse(line(choice=None), STUDY, RATER).choice is None
    pairs = drawn_study(prompts=4, raters=1, form="pairwise")
    with pytest.raises(RecordError, match="one of the two"):
        parse(line(choice=None), pairs, pairs.raters[0])


def test_an_answer_is_a_row_and_the_last_one_counts(tmp_path: Path) -> None:
    database = Database(tmp_path)
    for choice in (FIRST, RATER.trials[0].images[1]):
        database.save(RATER, parse(line(choice=choice), STUDY, RATER))
    database.save(STUDY.raters[1], Answer(trial=1, question="alignment", choice=None, ms=5))
    assert [answer.choice for answer in database.of(RATER)] == [RATER.trials[0].images[1]]
    rows = sqlite3.connect(tmp_path / DATABASE).execute("SELECT rater, trial, question, choice, ms FROM answers")
    assert sorted(rows) == [
        (RATER.token, 0, "alignment", RATER.trials[0].images[1], 1500),
        (STUDY.raters[1].token, 1, "alignment", None, 5),
    ]
    answers, complaints = read_answers(tmp_path, STUDY)  # while the server has it open
    assert {token: len(own) for token, own in answers.items()} == {"token0": 1, "token1": 1} and complaints == []
    database.close()


def test_files_of_raters(tmp_path: Path) -> None:
    """Of two answers to one question the later counts, wherever it lies; what is none is named and does no harm."""
    (tmp_path / FILES).mkdir()

    def put(name: str, data: Any) -> None:
        (tmp_path / FILES / name).write_text(data if isinstance(data, str) else json.dumps(data))

    second = RATER.trials[0].images[1]
    put("a.json", {"rater": "token0", "answers": [line(choice=second, at="2026-01-02T00:00:00.000Z"), line(trial=77)]})
    put("b.json", {"rater": "token0", "answers": [line(at="2026-01-01T00:00:00.000Z")]})
    put("c.json", {"rater": "nobody", "answers": [line()]})
    for name, data in (("d", "{"), ("e", []), ("f", {"rater": "token0", "answers": 5}), ("g", "[" * 10_000)):
        put(f"{name}.json", data)
    answers, complaints = read_answers(tmp_path, STUDY)
    assert {token: [one.choice for one in own] for token, own in answers.items()} == {"token0": [second]}
    assert [one.split("/")[-1].split(":")[0] for one in complaints] == [f"{name}.json" for name in "defgac"]
    assert "trial 77, question 'alignment': not asked" in complaints[4] and "no rater of this study" in complaints[5]


def test_a_database_that_is_none(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"no database at all, and long enough for a header" * 9)
    with pytest.raises(RealignError, match="is it a database"):
        Database(tmp_path)
    with pytest.raises(RealignError, match="no database of answers"):
        read_answers(tmp_path, STUDY)
