"""What `realign eval --out` wrote, read again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from realign_cli.data.records import parse_lines
from realign_cli.errors import UsageError
from realign_cli.evaluation.report import METRICS, SCORES
from realign_cli.records import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from realign_cli.evaluation.evaluate import Scores


class SavedScores(NamedTuple):
    """The values of each image by the id of its record, and the id of its prompt."""

    scores: Scores
    prompts: dict[str, str]


def is_eval(folder: Path) -> bool:
    """Whether `realign eval --out` wrote the folder."""
    return (folder / METRICS).is_file() and (folder / SCORES).is_file()


def read_scores(path: Path) -> SavedScores:
    """The lines of a file of scores; what is no number is no value.

    Raises:
        UsageError: a line is not as eval writes it.
    """
    found = SavedScores({}, {})
    with path.open("rb") as file:
        lines: Iterable[tuple[str, Any]] = parse_lines(file, str(path), parse_json)
        for place, line in lines:
            if not isinstance(line, dict) or not isinstance(line.get("id"), str):
                raise UsageError(f"{place}: no 'id'; give what 'realign eval --out DIR' wrote")
            values = {key: value for key, value in line.items() if value is None or type(value) in (int, float)}
            found.scores[line["id"]] = values
            found.prompts[line["id"]] = str(line.get("prompt_id") or line["id"])
    return found


def read_passes(folder: Path) -> float | None:
    """What an eval says of the passes of the generator per image, if it does."""
    try:
        return float(json.loads((folder / METRICS).read_text(encoding="utf-8"))["cost"]["in"]["passes"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
