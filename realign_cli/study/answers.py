"""Answers of raters: what one is, the database in which a server keeps them, and the files that raters download."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from realign_cli.errors import RealignError, RecordError
from realign_cli.study.design import DATABASE, FILES, Rater, Study

_WAIT = 5.0  # seconds for another process that writes
_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    rater TEXT NOT NULL, trial INTEGER NOT NULL, question TEXT NOT NULL,
    choice TEXT, ms INTEGER NOT NULL, at TEXT NOT NULL,
    PRIMARY KEY (rater, trial, question)
) STRICT"""
_SAVE = """
INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (rater, trial, question)
DO UPDATE SET choice = excluded.choice, ms = excluded.ms, at = excluded.at"""


class Answer(BaseModel):
    """What a rater said to a question of a trial: the name of an image, or None for none of them.

    `ms` are the milliseconds from when all images were there; `at` is when it was said, in UTC.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    trial: Annotated[int, Field(ge=0)]
    question: str
    choice: str | None
    ms: Annotated[int, Field(ge=0, lt=2**53)]
    at: str = ""


def parse(data: Any, study: Study, rater: Rater) -> Answer:
    """An answer as a browser gave it.

    Raises:
        RecordError: it is none, or not to what this rater is asked.
    """
    try:
        answer = Answer.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecordError("bad_answer", f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if answer.trial >= len(rater.trials) or answer.question not in study.questions:
        raise RecordError("bad_answer", f"trial {answer.trial}, question {answer.question!r}: not asked")
    if answer.choice is None and study.form == "pairwise":
        raise RecordError("bad_answer", f"trial {answer.trial}: one of the two has to be chosen")
    if answer.choice is not None and answer.choice not in rater.trials[answer.trial].images:
        raise RecordError("bad_answer", f"trial {answer.trial}: {answer.choice!r} was not shown")
    return answer


class Database:
    """The answers that a server got, one row each; what is saved survives a kill of the server and a power cut."""

    def __init__(self, folder: Path) -> None:
        """Raises RealignError where it cannot be opened or made."""
        self._path = folder / DATABASE
        try:
            self._connection = sqlite3.connect(self._path, timeout=_WAIT, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(_TABLE)
        except sqlite3.Error as error:
            raise RealignError(f"{self._path}: {error}; is it a database, and may it be written?") from None

    def save(self, rater: Rater, answer: Answer) -> None:
        """Keep an answer, in place of an earlier one to the same question.

        Raises:
            RealignError: it cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = (rater.token, answer.trial, answer.question, answer.choice, answer.ms, now)
        try:
            self._connection.execute(_SAVE, row)
        except sqlite3.Error as error:
            raise RealignError(f"cannot write {self._path}: {error}") from None

    def of(self, rater: Rater) -> list[Answer]:
        """What a rater has said so far."""
        columns = "trial, question, choice, ms, at"
        rows = self._connection.execute(f"SELECT {columns} FROM answers WHERE rater = ? ORDER BY at", (rater.token,))
        return [Answer(**dict(zip(columns.split(", "), row, strict=True))) for row in rows]

    def close(self) -> None:
        self._connection.close()


def read_answers(folder: Path, study: Study) -> tuple[dict[str, list[Answer]], list[str]]:
    """The last answer to each question by each rater's token, from the database and the files; and what was no answer.

    Raises:
        RealignError: the database cannot be read.
    """
    latest: dict[str, dict[tuple[int, str], Answer]] = {}
    complaints: list[str] = []
    raters = {rater.token: rater for rater in study.raters}
    for place, token, data in (*_of_database(folder), *_of_files(folder / FILES, complaints)):
        try:
            if token not in raters:
                raise RecordError("bad_answer", "of no rater of this study")
            answer = parse(data, study, raters[token])
        except RecordError as error:
            complaints.append(f"{place}: {error}")
            continue
        own = latest.setdefault(token, {})
        before = own.get((answer.trial, answer.question))
        if before is None or before.at <= answer.at:
            own[answer.trial, answer.question] = answer
    return {token: list(own.values()) for token, own in latest.items()}, list(dict.fromkeys(complaints))


def _of_database(folder: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    path = folder / DATABASE
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path, timeout=_WAIT)) as connection:
            connection.row_factory = sqlite3.Row
            for row in connection.execute("SELECT * FROM answers ORDER BY at"):
                data = dict(row)
                yield str(path), data.pop("rater"), data
    except sqlite3.Error as error:
        raise RealignError(f"{path}: {error}; it is no database of answers, restore it") from None


def _of_files(folder: Path, complaints: list[str]) -> Iterator[tuple[str, str, Any]]:
    for path in sorted(folder.glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            token, answers = data["rater"], list(data["answers"])
        except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
            complaints.append(f"{path}: no answers in it ({type(error).__name__})")
            continue
        yield from ((str(path), str(token), answer) for answer in answers)
