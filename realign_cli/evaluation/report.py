"""The measurements of `realign eval` as tables, files and pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from realign_cli import console, pictures
from realign_cli.data.images import image_path, open_image
from realign_cli.evaluation.compare import Drop, Row, by_prompt, categories, compare, worst
from realign_cli.evaluation.distance import Distance, distance
from realign_cli.evaluation.evaluate import FID, Evaluate, Scores
from realign_cli.evaluation.map_shares import map_line, map_shares
from realign_cli.files import atomic
from realign_cli.runs import contact_sheet
from realign_cli.runs.lock import folder_lock
from realign_cli.runs.times import seconds_per_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from realign_cli.data.records import Entry
    from realign_cli.equations.bootstrap import Mean
    from realign_cli.evaluation.session import KnownReference, SetMeasurement

METRICS, SCORES, BASELINE_SCORES = "metrics.json", "scores.jsonl", "baseline_scores.jsonl"
INTERVALS, VALUES, WORST = "intervals.png", "values.png", "worst.png"
PIPE_WIDTH = 160  # columns of the table where there is no terminal to ask
_DRAWN = 12  # images on worst.png
COLUMNS = ("metric", "n", "mean", "95 %", "baseline", "difference", "95 %", "win rate", "95 %", "won/lost")


class Report:
    """Everything that one `realign eval` found; `settings` say what it was found with."""

    def __init__(
        self,
        evaluate: Evaluate,
        settings: Mapping[str, Any],
        run: SetMeasurement,
        before: SetMeasurement | None,
        known: KnownReference | None,
    ) -> None:
        self._settings = settings
        self._run, self._before, self._known = run, before, known
        self._prompts, self._prompts_before = _first_of_each(run), _first_of_each(before) if before else {}
        scores, baseline = scores_by_prompt(run), scores_by_prompt(before) if before else None
        self._rows = compare(scores, baseline, _members(self._prompts))
        self._worst = worst(scores, baseline) if baseline else []
        self._metrics = {
            name: {"note": metric.note, "fingerprint": metric.fingerprint, "prompts_cut": run.measured.truncated[name]}
            for name, metric in evaluate.image_text_metrics.items()
        }
        self._features = evaluate.extractor.name if evaluate.extractor else None
        sides = {"in": run, "baseline": before}
        self.distances = {
            name: distance(side.features, known.reference) for name, side in sides.items() if side and known
        }
        self._costs = {name: cost for name, side in sides.items() if side and (cost := cost_of(side))}
        records = {name: [entry.record for entry in side.entries.values()] for name, side in sides.items() if side}
        self._maps = {name: shares for name, own in records.items() if (shares := map_shares(own))}
        measured = [side for side in (run, before, known and known.measurement) if side]
        self._warnings = [line for side in measured for line in side.warnings()]
        self.failed = sum(len(side.failures) for side in measured)

    def show(self, *, quiet: bool, as_json: bool) -> None:
        """The report on stdout, what could not be measured on stderr."""
        for line in self._warnings:
            console.console.print(console.plain(line), soft_wrap=True)
        if as_json:
            console.write_json(self._as_dict())
            return
        screen = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
        if self._rows:
            screen.print(console.table(COLUMNS, [cells(row) for row in self._rows]), soft_wrap=True)
        lines = [distance_line(name, one) for name, one in self.distances.items()]
        lines += [cost_line(name, one) for name, one in self._costs.items()]
        lines += [map_line(name, one) for name, one in self._maps.items()]
        if not quiet:
            lines += [*self._notes(), *self._biggest_drops()]
        for line in lines:
            screen.print(console.plain(line), soft_wrap=True)

    def write(self, out: Path) -> None:
        """metrics.json, the scores of both sides, worst.jsonl, and pictures of means, values and worst regressions."""
        with folder_lock(out):
            self._write(out)

    def _write(self, out: Path) -> None:
        from realign_cli.evaluation import plots  # loads a plotting library, which only this needs

        atomic.write_json(out / METRICS, self._as_dict())
        scores = self._run.measured.scores
        _write_lines(out / SCORES, _score_lines(self._run))
        if self._rows:
            atomic.write_png(out / INTERVALS, plots.intervals(self._rows))
            baseline = self._before.measured.scores if self._before else {}
            atomic.write_png(out / VALUES, plots.values(scores, baseline))
        if self._before:
            _write_lines(out / BASELINE_SCORES, _score_lines(self._before))
            _write_lines(out / "worst.jsonl", map(self._drop_line, self._worst))
            drawn = {drop.id: drop for drop in sorted(self._worst, key=lambda drop: -drop.rank)}  # its worst fall
            strips = [self._draw(drop) for drop in sorted(drawn.values(), key=lambda drop: drop.rank)[:_DRAWN]]
            if strips:
                atomic.write_png(out / WORST, contact_sheet.sheet_of(strips))

    def _as_dict(self) -> dict[str, Any]:
        report: dict[str, Any] = {"in": self._run.source}
        if self._before:
            report["baseline"] = self._before.source
        report |= {"metrics": [asdict(row) for row in self._rows], "judges": self._metrics}
        if self._costs:
            report["cost"] = self._costs
        if self._maps:
            report["maps"] = self._maps
        if self._known:
            reference = {"name": self._known.name, "n": self._known.reference.moments.n, "sha256": self._known.sha256}
            distances = {name: asdict(one) for name, one in self.distances.items()}
            report[FID] = {"features": self._features, "reference": reference, **distances}
        return {**report, "notes": self._notes(), "failed": self.failed, **self._settings}

    def _notes(self) -> list[str]:
        notes = [f"{name}: {one['note']}; {one['prompts_cut']} prompts cut" for name, one in self._metrics.items()]
        if self._known:
            notes.append(f"fid: {self._features}; reference {self._known.name}")
        notes += dict.fromkeys(one.caveat for one in self.distances.values() if one.caveat)
        for side, prompts in ((self._run, self._prompts), (self._before, self._prompts_before)):
            if side and len(side.entries) > len(prompts):
                notes.append(f"{side.source}: {len(side.entries)} images of {len(prompts)} prompts; n counts prompts")
        if self._before:
            ids, others = self._prompts.keys(), self._prompts_before.keys()
            if ids != others:
                notes.append(f"differences: {len(ids & others)} ids are in both; {len(ids)} here, {len(others)} there")
        return notes

    def _biggest_drops(self) -> list[str]:
        """The worst regression of each column, for the screen."""
        return [
            f"fell most, {drop.metric}: {drop.id} {drop.baseline:.3f} -> {drop.value:.3f}  "
            f"{self._prompts[drop.id].record.text}"
            for drop in self._worst
            if drop.rank == 0
        ]

    def _drop_line(self, drop: Drop) -> dict[str, Any]:
        """A regression as a line of worst.jsonl, with the paths of both images, each the first of its prompt."""
        entry, before = self._prompts[drop.id], self._prompts_before[drop.id]
        return {
            **asdict(drop),
            "difference": drop.value - drop.baseline,
            "text": entry.record.text,
            "image": str(image_path(entry.record, entry.base).absolute()),
            "baseline_image": str(image_path(before.record, before.base).absolute()),
        }

    def _draw(self, drop: Drop) -> Image:
        sides = self._prompts_before[drop.id], self._prompts[drop.id]
        images = [open_image(image_path(entry.record, entry.base)) for entry in sides]
        title = f"{drop.metric} {drop.baseline:.3f} -> {drop.value:.3f}, {drop.id}"
        return pictures.before_and_after(title, sides[1].record.text, *images)


def cost_of(side: SetMeasurement) -> dict[str, Any] | None:
    """What was spent per image, on the `n` of which it is known.

    Passes of the generator, denoising steps if all say them, and the seconds of each stage if the folder knows them.
    """
    costs = [cost for entry in side.entries.values() if (cost := entry.record.cost)]
    if not costs:
        return None
    means: dict[str, Any] = {"n": len(costs), "passes": sum(cost.passes for cost in costs) / len(costs)}
    steps = [cost.steps for cost in costs if cost.steps is not None]
    if len(steps) == len(costs):
        means["steps"] = sum(steps) / len(steps)
    if seconds := seconds_per_image(Path(side.source)):
        means["seconds"] = seconds
    return means


def cost_line(name: str, cost: Mapping[str, Any]) -> str:
    """What was spent per image on one side, in words."""
    steps = f", {cost['steps']:.2f} steps" if "steps" in cost else ""
    seconds = ", ".join(f"{stage} {one:.2f} s" for stage, one in cost.get("seconds", {}).items())
    spent = f"{cost['passes']:.2f} passes of the generator{steps} per image  n {cost['n']}"
    return f"cost ({name}): {spent}" + (f"; {seconds}" if seconds else "")


def _score_lines(side: SetMeasurement) -> Iterator[dict[str, Any]]:
    """The values of each image, behind the id of its record, and that of its prompt where it names one."""
    for record_id, values in side.measured.scores.items():
        prompt_id = side.entries[record_id].record.prompt_id
        yield {"id": record_id, **({"prompt_id": prompt_id} if prompt_id else {}), **values}


def scores_by_prompt(side: SetMeasurement) -> Scores:
    """The mean of each column over the images of each prompt."""
    return by_prompt(side.measured.scores, {i: entry.record.prompt_key for i, entry in side.entries.items()})


def _first_of_each(side: SetMeasurement) -> dict[str, Entry]:
    """Prompt id -> the first record that was measured of it."""
    first: dict[str, Entry] = {}
    for entry in side.entries.values():
        first.setdefault(entry.record.prompt_key, entry)
    return first


def _members(prompts: Mapping[str, Entry]) -> dict[str, list[str]]:
    """Category -> ids of prompts."""
    members: dict[str, list[str]] = {}
    for prompt_id, entry in prompts.items():
        for category in categories(entry.record):
            members.setdefault(category, []).append(prompt_id)
    return dict(sorted(members.items()))


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    atomic.write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def cells(row: Row) -> list[str]:
    """A row of the table, as text under COLUMNS."""
    line = [f"  {row.category}" if row.category else row.metric, str(row.value.n), *mean_cells(row.value)]
    if row.baseline and row.difference and row.win_rate:
        line += [f"{row.baseline.mean:.3f}", *mean_cells(row.difference, "+"), *mean_cells(row.win_rate)]
        line += [f"{row.won}/{row.lost}"]
    return line + [""] * (len(COLUMNS) - len(line))


def mean_cells(mean: Mean, sign: str = "") -> list[str]:
    """Mean and interval; one value has no interval."""
    interval = f"{mean.low:{sign}.3f} to {mean.high:{sign}.3f}" if mean.n > 1 else "-"
    return [f"{mean.mean:{sign}.3f}", interval]


def distance_line(name: str, found: Distance) -> str:
    """FID and KID of one side, in words."""
    against = "an unknown number" if found.n_reference is None else str(found.n_reference)
    line = f"fid ({name}): {found.fid:.3f}"
    if found.kid:
        line += f"  kid {found.kid.value:.5f} +- {found.kid.error:.5f} (standard error)"
    return f"{line}  n {found.n} against {against}, {found.dimensions}-d"
