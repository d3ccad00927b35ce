"""What lies in the folders of a report: records with the account of their run, and evals with their tables."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from realign_cli.data.records import METADATA, Entry, parts, read_tolerantly
from realign_cli.equations.bootstrap import Mean
from realign_cli.equations.kid import Kid
from realign_cli.errors import UsageError
from realign_cli.evaluation.compare import Row
from realign_cli.evaluation.distance import Distance
from realign_cli.evaluation.report import BASELINE_SCORES, INTERVALS, METRICS, SCORES, VALUES, WORST
from realign_cli.evaluation.saved import read_scores
from realign_cli.records import require_schema
from realign_cli.runs.folder import RUN

if TYPE_CHECKING:
    from realign_cli.evaluation.evaluate import Scores

_STAGES = ("generate", "caption-reward", "select", "tag", "score", "segment", "refine", "tries")  # in the order of use
_FIGURES = {
    INTERVALS: "Differences from the baseline, or means, with 95 % intervals",
    VALUES: "How the values are spread",
    WORST: "The images that fell furthest",
}


@dataclass(frozen=True)
class Account:
    """What `run.json` says of a run: its stage, the command as typed, settings and versions by dotted names."""

    stage: str
    command: str
    settings: dict[str, str]
    versions: dict[str, str]


@dataclass(frozen=True)
class RecordFolder:
    """A folder of records; `broken` says of each line that is no record why. Imported ones may have no account."""

    path: Path
    label: str
    entries: list[Entry]
    broken: list[str]
    account: Account | None


@dataclass(frozen=True)
class Side:
    """One side of an eval: its folder as eval was given it, mean cost per image, distance, and values of each image."""

    source: str
    cost: dict[str, Any] | None
    distance: Distance | None
    scores: Scores = field(default_factory=dict)


@dataclass(frozen=True)
class EvalFolder:
    """What `realign eval --out` wrote.

    `settings` are those of the metrics, by dotted names; `figures` the pictures that are there, with what they show.
    """

    path: Path
    label: str
    rows: list[Row]
    run: Side
    baseline: Side | None
    notes: list[str]
    settings: dict[str, str]
    figures: dict[Path, str]

    @property
    def title(self) -> str:
        """What was measured against what: the names of the folders, or their paths where the names are the same."""
        sides = [side.source for side in (self.run, self.baseline) if side]
        names = [PurePath(source).name or source for source in sides]
        return " against ".join(names if len(set(names)) == len(names) else sides)


@dataclass(frozen=True)
class Sources:
    """All that a report is made of, in the order given."""

    records: list[RecordFolder]
    evals: list[EvalFolder]


def read_sources(folders: Sequence[Path]) -> Sources:
    """Folders of records and of evals, or folders that hold such, as `realign run` and `demo` make them.

    Raises:
        UsageError: a folder is neither, its run is not complete, or its eval cannot be read.
    """
    found = [inner for folder in folders for inner in _expanded(folder)]
    paths = list({path.resolve(): path for path in found}.values())
    labels = dict(zip(paths, _labels(paths), strict=True))
    evals = [_eval_folder(path, label) for path, label in labels.items() if _is_eval(path)]
    return Sources([_record_folder(path, label) for path, label in labels.items() if not _is_eval(path)], evals)


def _expanded(folder: Path) -> list[Path]:
    if _is_records(folder) or _is_eval(folder):
        return [folder]
    inner = sorted((path for path in folder.glob("*") if _is_records(path) or _is_eval(path)), key=_in_order_of_use)
    if not inner:
        reason = "neither records nor an eval in it" if folder.is_dir() else "no such folder"
        raise UsageError(f"{folder}: {reason}; give folders that realign wrote, or one that holds them")
    return inner


def _in_order_of_use(path: Path) -> tuple[int, str]:
    account = _account(path / RUN)
    return (_STAGES.index(account.stage) + 1 if account and account.stage in _STAGES else 0), path.name


def _is_records(path: Path) -> bool:
    return (path / METADATA).exists() or bool(parts(path))


def _is_eval(path: Path) -> bool:
    return (path / METRICS).exists()


def _labels(paths: Sequence[Path]) -> list[str]:
    """The names of folders, with as many of the folders above them as tell them apart."""
    whole = [path.resolve().parts for path in paths]
    labels = []
    for own in whole:
        depth = 1
        while depth < len(own) and sum(other[-depth:] == own[-depth:] for other in whole) > 1:
            depth += 1
        labels.append("/".join(own[-depth:]))
    return labels


def _record_folder(path: Path, label: str) -> RecordFolder:
    folder = RecordFolder(path, label, [], [], _account(path / RUN))
    for one in read_tolerantly(path):
        if isinstance(one, Entry):
            folder.entries.append(one)
        else:
            folder.broken.append(str(one))
    return folder


def _account(path: Path) -> Account | None:
    if not path.exists():
        return None
    try:
        run = json.loads(path.read_text())
        require_schema(run, str(path))
        config = run["config"]
        command = shlex.join(["realign", *run["argv"]])
        rest = {key: value for key, value in config.items() if key not in ("command", "settings")}
        settings = _leaves(rest | config.get("settings", {}))
        return Account(str(config["command"]), command, settings, _leaves(run.get("versions", {})))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path}: not readable; make the folder again with --overwrite") from None


def _leaves(tree: Any, prefix: str = "") -> dict[str, str]:
    """The leaves of nested settings, by dotted names."""
    if not isinstance(tree, dict):
        return {prefix: tree if isinstance(tree, str) else json.dumps(tree, ensure_ascii=False)}
    leaves: dict[str, str] = {}
    for key, value in tree.items():
        leaves |= _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _eval_folder(path: Path, label: str) -> EvalFolder:
    file = path / METRICS
    try:
        data = json.loads(file.read_text())
        return EvalFolder(
            path,
            label,
            [_row(row) for row in data["metrics"]],
            _side(data, "in", path / SCORES),
            _side(data, "baseline", path / BASELINE_SCORES) if "baseline" in data else None,
            [str(note) for note in data["notes"]],
            _leaves({"preset": data.get("preset")} | data.get("settings", {})),
            {path / name: shows for name, shows in _FIGURES.items() if (path / name).exists()},
        )
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file}: not readable ({type(error).__name__}); run 'realign eval --out' again") from None


def _row(row: dict[str, Any]) -> Row:
    means = {key: Mean(**row[key]) if row[key] else None for key in ("value", "baseline", "difference", "win_rate")}
    return Row(**row | means)


def _side(data: dict[str, Any], name: str, scores: Path) -> Side:
    found = data.get("fid", {}).get(name)
    distance = Distance(**found | {"kid": Kid(**found["kid"]) if found["kid"] else None}) if found else None
    # An earlier version of eval wrote no file of its baseline's scores.
    return Side(
        str(data[name]), data.get("cost", {}).get(name), distance, read_scores(scores).scores if scores.exists() else {}
    )
