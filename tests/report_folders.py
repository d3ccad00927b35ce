"""Folders as runs and evals leave them, small, for tests of the report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from realign_cli.evaluation.compare import compare
from realign_cli.pictures import Tile, row, strip
from realign_cli.stages.run_lengths import encode

Line = dict[str, Any]
Scores = Mapping[str, Mapping[str, float | None]]
HOSTILE = (
    "<script>document.title = 'owned'</script>",
    "</script><script>document.title = 'owned'</script>",
    '"><img src="https://example.invalid/x.png" onerror="document.title = \'owned\'">',
    "</template></article><h1>owned</h1>",
    "{{ 7 * 7 }} {% raw %} <!-- a comment & an entity &lt;",
)


def image(number: int, size: int = 64) -> Image.Image:
    """A square of its own shade on black; every number gives other pixels."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[size // 8 : size // 2, size // 8 : size // 2] = 40 + number * 53 % 200, 255 - number * 37 % 200, number % 256
    return Image.fromarray(pixels)


def noise(size: int, seed: int = 0) -> Image.Image:
    """What compresses worst."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def objects(size: int = 64) -> list[Line]:
    """A square that was found, with mask and box, and a ring that was not."""
    mask = np.zeros((size, size), bool)
    mask[size // 8 : size // 2, size // 8 : size // 2] = True
    box = [size // 8, size // 8, size // 2, size // 2]
    found = {"label": "square", "phrase": "a red square", "likelihood": 2.0, "boxes": [box]}
    absent = {"label": "ring", "phrase": "a blue ring", "likelihood": 0.5, "boxes": []}
    return [{**found, "mask": encode(mask).model_dump()}, absent]


def record(record_id: str, text: str, **keys: Any) -> Line:
    return {"file_name": f"{record_id}.png", "text": text, "id": record_id, **keys}


def caption(text: str, reward: float) -> Line:
    return {"text": text, "reward": reward}


def tries(kept: int, *made: Line) -> Line:
    return {"made": list(made), "kept": kept, "stop": "good"}


def write_records(folder: Path, lines: Iterable[Line | str], stage: str | None = None, shade: int = 0) -> Path:
    """A folder of records with an image for each that names one, and a strip for each that was tried or refined."""
    (folder / "pictures").mkdir(parents=True)
    written = list(lines)
    for number, line in enumerate(written):
        if isinstance(line, str) or not line["file_name"]:
            continue
        as_it_was = line.get("tries", {}).get("kept") == 0
        own = image(number if as_it_was else shade + number)  # a folder of shade 0 has what others were made from
        own.save(folder / line["file_name"])
        if "tries" in line:
            made, kept = line["tries"]["made"], line["tries"]["kept"]
            drawn = {0: image(number), kept: own}
            shown = [
                Tile(drawn.get(i, image(100 + i)), "", i == kept) for i, one in enumerate(made) if "caption" in one
            ]
            row(line["text"], shown, 4).save(folder / "pictures" / f"{line['id']}-strip.png")
        if "refine" in line:
            kept = line["refine"]["kept"]
            refined = image(shade + number if kept == "final" else 7)
            strip(line["text"], image(number), [], refined, kept).save(folder / "pictures" / f"{line['id']}-strip.png")
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in written)
    (folder / "metadata.jsonl").write_text(text)
    if stage:
        config = {"command": stage, "preset": "tiny", "settings": {"generator": {"checkpoint": "package:generator"}}}
        run = {"schema": 1, "argv": [stage, "--out", "x y"], "config": config, "versions": {"realign": "0.1.0"}}
        (folder / "run.json").write_text(json.dumps(run))
    return folder


def write_eval(folder: Path, source: Path, scores: Scores, baseline: Path | None = None, before: Scores = {}) -> Path:  # noqa: B006
    """What eval leaves of two folders, with one plot."""
    folder.mkdir(parents=True)
    rows = compare({i: dict(v) for i, v in scores.items()}, {i: dict(v) for i, v in before.items()} or None)
    data: Line = {"in": str(source), "metrics": [asdict(one) for one in rows], "notes": ["m: a note"], "failed": 0}
    data["cost"] = {"in": {"n": len(scores), "passes": 2.0}, "baseline": {"n": len(scores), "passes": 1.0}}
    if baseline:
        data["baseline"] = str(baseline)
        (folder / "baseline_scores.jsonl").write_text(_lines(before))
    (folder / "metrics.json").write_text(json.dumps(data))
    (folder / "scores.jsonl").write_text(_lines(scores))
    Image.new("RGB", (80, 40), "white").save(folder / "intervals.png")
    return folder


def _lines(scores: Scores) -> str:
    return "".join(json.dumps({"id": record_id, **values}) + "\n" for record_id, values in scores.items())


def write_world(root: Path) -> Path:
    """A run of four prompts: mended, kept as it was, failed, and worse; with an eval of both folders."""
    texts = {"0": "a red square and a blue ring", "1": "a pink cross", "2": "two green circles", "3": "an orange star"}
    coarse = [record(i, text, cost={"passes": 1, "steps": 20}) for i, text in texts.items()]
    coarse[2]["file_name"] = ""
    coarse[2]["failures"] = [{"stage": "generate", "kind": "not_finite", "message": "no image came of it"}]
    drawn, mended = caption("a red square", 0.5), caption("a red square and a blue ring", 0.99)
    final = [
        record(
            "0",
            texts["0"],
            caption=mended,
            cost={"passes": 2, "steps": 40},
            tries=tries(1, {"how": "draw", "caption": drawn}, {"how": "mend", "caption": mended, "objects": objects()}),
        ),
        record(
            "1",
            texts["1"],
            caption=caption("a cross", 0.97),
            tries=tries(0, {"how": "draw", "caption": caption("a cross", 0.97)}),
        ),
        dict(coarse[2]),
        record("3", texts["3"], caption=caption("a star", 0.6)),
    ]
    write_records(root / "coarse", coarse, "generate")
    write_records(root / "final", final, "tries", shade=10)
    before = {"0": {"clip": 0.5}, "1": {"clip": 0.75}, "3": {"clip": 0.9}}
    after = {"0": {"clip": 0.875}, "1": {"clip": 0.75}, "3": {"clip": 0.4}}
    write_eval(root / "eval", root / "final", after, root / "coarse", before)
    return root
