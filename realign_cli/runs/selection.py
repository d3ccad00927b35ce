"""Which records of each prompt are kept, prompt by prompt, as they are read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from realign_cli.data.records import Entry, by_prompt, parse_lines
from realign_cli.errors import UsageError
from realign_cli.records import parse_json
from realign_cli.stages.select import ADDED_BY, choose, number


class Choice:
    """Keeps of each prompt the `top` records with the highest number in field `by`, or in a column of `scores`.

    Of the input, the records of one prompt are held; `left_out` has the ids of those that were not kept so far.
    """

    def __init__(self, by: str, top: int, scores: Path | None = None) -> None:
        self._by, self._top, self._file = by, top, scores
        self._scores = read_scores(scores, by) if scores else None
        self.left_out: set[str] = set()

    def __call__(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The entries that are kept, each with the key `select`, in the order of the input.

        Raises:
            UsageError: a record has no such number, or the records of a prompt are not side by side.
        """
        for group in by_prompt(entries):
            records = {entry.record.id: entry.record for entry in group}
            values = {entry.record.id: self._value(entry) for entry in group if not entry.record.failed}
            chosen = {one.id: one for one in choose(list(records.values()), values, self._by, self._top)}
            self.left_out |= records.keys() - chosen.keys()
            for entry in group:
                if entry.record.id in chosen:
                    yield Entry(chosen[entry.record.id], entry.place, entry.base)

    def _value(self, entry: Entry) -> float:
        record = entry.record
        if self._scores is not None:
            if (value := self._scores.get(record.id)) is None:
                raise UsageError(
                    f"{entry.place}: no number for {record.id!r} under '{self._by}' in {self._file}; run 'realign eval "
                    "--out DIR' on these records, and name one of the columns of its scores.jsonl"
                )
            return value
        if (found := number(record, self._by)) is not None:
            return found
        key = self._by.split(".")[0]
        if key in ADDED_BY and getattr(record, key) is None:
            raise UsageError(f"{entry.place}: no '{key}'; run 'realign {ADDED_BY[key]}' first")
        raise UsageError(f"{entry.place}: no number at '{self._by}'; --by names one of each record, as caption.reward")


def read_scores(path: Path, column: str) -> Mapping[str, float]:
    """The numbers in a column of the scores.jsonl of `realign eval`, by record id.

    Raises:
        UsageError: no such file, or a line that is none of it.
    """
    scores: dict[str, float] = {}
    try:
        with path.open("rb") as file:
            rows: Iterator[tuple[str, Any]] = parse_lines(file, str(path), parse_json)
            for place, row in rows:
                if not isinstance(row, dict) or not isinstance(row.get("id"), str):
                    raise UsageError(f"{place}: no 'id'; give the scores.jsonl of 'realign eval --out DIR'")
                value = row.get(column)
                if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                    scores[row["id"]] = value
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give the scores.jsonl of 'realign eval --out DIR'") from None
    return scores
