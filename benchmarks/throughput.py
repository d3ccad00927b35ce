"""Images per second of the stages that look at images, against a plain loop over the same models with batch 1.

    python benchmarks/throughput.py [--quick]

N scenes of the embedded world as 64 x 64 PNGs, and once as noisy ones of 512 x 512, which take longer to decode than to
tag, and to write than to segment; the embedded models, one thread. The loop opens each image where it
needs it and asks the model about this one; `eval` is compared with one such loop for each of its metrics. Ours is the
stage as its command runs it, with reading and checking of records, in batches of 16, models loaded. What both find is
compared before they are timed. The limit of tagging large files is decoding them with all cores and doing nothing else.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
import torch
from eval_pass import draw
from PIL import Image
from ratios import Row, in_turn, main, ratios

from realign_cli import presets
from realign_cli.data.images import open_image
from realign_cli.data.records import Entry, read_records
from realign_cli.evaluation.evaluate import FID, EvalInput, Evaluate
from realign_cli.pictures import mask_picture, overlay
from realign_cli.records import Object, Record
from realign_cli.registry import Models
from realign_cli.runs.folder import RunFolder
from realign_cli.runs.runner import run_map
from realign_cli.stages.base import Item, Outcome, Stage
from realign_cli.stages.caption_reward import CaptionReward, captions
from realign_cli.stages.run_lengths import decode, encode
from realign_cli.stages.score import Score
from realign_cli.stages.segment import Segment
from realign_cli.stages.tag import Tag
from realign_cli.tinyworld import scenes

COUNT, BATCH = 64, 16
LOOP = "{} images, batch 1, same weights"
METRICS = (FID, "clip", "negclip", "blip")


class Forgetful:
    """A memory of `stages.eval` that holds nothing: every run asks the models."""

    def get(self, key: str) -> None:
        return None

    def put(self, answers: Mapping[str, bytes]) -> None: ...


class Dropped:
    def put(self, index: int, row: bytes) -> None: ...


def entries(folder: Path, count: int, models: Models) -> list[Entry]:
    """Records with objects, so that every stage has what it needs."""
    made = []
    for i, scene in zip(range(count), scenes.scenes(1), strict=False):
        Image.fromarray(scenes.render(scene)).save(folder / f"{i}.png")
        made.append(Entry(Record(file_name=f"{i}.png", text=scene.caption, id=str(i)), str(i), folder))
    for stage in (Tag(models), Score(models)):
        outcomes = outcomes_of(stage, made, BATCH)
        made = [
            Entry(entry.record.replace(**outcome.changes), entry.place, folder)
            for entry, outcome in zip(made, outcomes, strict=True)
        ]
    return made


def picture(entry: Entry) -> Image.Image:
    return open_image(entry.base / entry.record.file_name)


def outcomes_of(stage: Stage, given: list[Entry], batch: int) -> list[Outcome]:
    items = [Item(entry.record, picture(entry)) for entry in given]
    return [outcome for i in range(0, len(items), batch) for outcome in stage(items[i : i + batch])]


def found_in(models: Models, image: Image.Image, objects: list[Object]) -> list[tuple[list, object]]:
    """Boxes and mask of each object, as `segment` has them."""
    labels = [one.label for one in objects if one.likelihood > 0]
    (found,) = models.detector.detect([image], [labels])
    (cut,) = models.mask_model.masks([image], [[detection.box for detection in found]])
    own = [[i for i, d in enumerate(found) if d.label == one.label and one.likelihood > 0] for one in objects]
    return [([found[i].box for i in rows], encode(cut[rows].any(0)) if rows else None) for rows in own]


def loops(models: Models, single: Models) -> dict[str, tuple[Stage, Callable[[Entry], object]]]:
    """Each stage, and what its loop does with one record."""
    return {
        "tag": (Tag(models), lambda entry: single.tagger.tag([picture(entry)])[0]),
        "caption-reward": (
            CaptionReward(models),
            lambda entry: captions(single, [picture(entry)], [entry.record.text])[0],
        ),
        "segment": (Segment(models), lambda entry: found_in(single, picture(entry), entry.record.objects)),
    }


def check(name: str, outcomes: list[Outcome], looped: list) -> None:
    for outcome, alone in zip(outcomes, looped, strict=True):
        if name == "tag":
            together = outcome.changes["tags"]
            assert {tag.label for tag in together} == {tag.label for tag in alone}
            assert np.allclose(
                sorted(tag.confidence for tag in together), sorted(tag.confidence for tag in alone), atol=1e-3
            )
        elif name == "caption-reward":
            together = outcome.changes["caption"]
            assert together.text == alone.text and abs(together.reward - alone.reward) < 1e-3
        else:
            assert [(one.boxes, one.mask) for one in outcome.changes["objects"]] == alone


def evaluation(models: Models, given: list[Entry], *, quick: bool) -> Row:
    evaluate = Evaluate(models, METRICS, Forgetful(), BATCH)

    def inputs() -> Iterator[EvalInput]:
        for entry in given:
            yield EvalInput(entry.record, entry.record.id, picture(entry))

    def loop() -> dict[str, dict[str, float | None]]:
        said: dict[str, dict[str, float | None]] = {entry.record.id: {} for entry in given}
        for metric in evaluate.image_text_metrics.values():
            for entry in given:
                columns = metric.measure([picture(entry)], [entry.record.text])
                said[entry.record.id] |= {column: values[0] for column, values in columns.items()}
        for entry in given:
            models.features.features([picture(entry)])
        return said

    together, alone = evaluate.measure(inputs(), Dropped()).scores, loop()
    for id_, columns in together.items():
        assert columns.keys() == alone[id_].keys()
        assert np.allclose(list(columns.values()), [alone[id_][name] for name in columns], atol=1e-4)
    times = in_turn({"loop": loop, "ours": lambda: evaluate.measure(inputs(), Dropped())}, quick=quick)
    return row("eval", times, f"{len(given)} images, one loop for each of {', '.join(METRICS)}")


def reading(folder: Path, models: Models, single: Models, *, quick: bool) -> Row:
    """Where decoding an image takes longer than looking at it, as with a fast model on a GPU."""
    draw(folder, 2 if quick else COUNT)
    given = list(read_records(str(folder)))

    def loop() -> None:
        for entry in given:
            single.tagger.tag([picture(entry)])

    def decoding() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(picture, given))

    ways = {
        "loop": loop,
        "decoding": decoding,
        "ours": lambda: run_map(
            given, [Tag(models)], out=None, batch_size=BATCH, read_ahead=True, quiet=True, echo=False
        ),
    }
    times = in_turn(ways, quick=quick, clock=time.perf_counter)
    limit = f"{statistics.median(ratios(times, 'loop', 'decoding')):.3g}, decoding"
    return row("tag, 512 x 512 PNGs, on the clock", times, LOOP.format(len(given)), limit)


def writing(folder: Path, models: Models, single: Models, *, quick: bool) -> Row:
    """Where writing takes its time, too: `segment --out` with a picture of each mask and one of all."""
    draw(folder, 2 if quick else COUNT)
    stages = [Tag(models), Score(models)]
    run_map(
        read_records(str(folder)),
        stages,
        out=RunFolder(folder / "scored", {}),
        batch_size=BATCH,
        quiet=True,
        echo=False,
    )
    given = list(read_records(str(folder / "scored")))
    runs = count()

    def loop() -> None:
        out = folder / f"loop-{next(runs)}"
        out.mkdir()
        for entry in given:
            image, name = picture(entry), entry.record.id
            found = found_in(single, image, entry.record.objects)
            masks = [decode(mask, image) for _, mask in found if mask]
            for i, mask in enumerate(masks):
                mask_picture(mask).save(out / f"{name}-mask-{i}.png")
            overlay(image, masks).save(out / f"{name}-overlay.png")
            shutil.copy(entry.base / entry.record.file_name, out)

    def ours() -> None:
        out = RunFolder(folder / f"ours-{next(runs)}", {})
        run_map(given, [Segment(models)], out=out, batch_size=BATCH, read_ahead=True, quiet=True, echo=False)

    times = in_turn({"loop": loop, "ours": ours}, quick=quick, clock=time.perf_counter)
    return row("segment --out, 512 x 512 PNGs, on the clock", times, LOOP.format(len(given)))


def row(name: str, times: Mapping[str, list[float]], peer: str, limit: str = "") -> Row:
    return Row(f"{name}: images/s, ours / plain loop", ratios(times, "loop", "ours"), peer, limit)


def measure(quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    models = Models(presets.load("tiny"), "cpu")
    one_by_one = [f"{role}.model_batch_size=1" for role in ("tagger", "detector", "mask_model")]
    single = Models(presets.load("tiny", one_by_one), "cpu")
    found = []
    with tempfile.TemporaryDirectory() as name:
        given = entries(Path(name), 3 if quick else COUNT, models)
        for command, (stage, one) in loops(models, single).items():
            check(command, outcomes_of(stage, given, BATCH), [one(entry) for entry in given])
            ways = {
                "loop": lambda one=one: [one(entry) for entry in given],
                "ours": lambda stage=stage: run_map(
                    given, [stage], out=None, batch_size=BATCH, read_ahead=True, quiet=True, echo=False
                ),
            }
            found.append(row(command, in_turn(ways, quick=quick), LOOP.format(len(given))))
        found.append(reading(Path(name) / "large", models, single, quick=quick))
        found.append(writing(Path(name) / "written", models, single, quick=quick))
        found.append(evaluation(models, given, quick=quick))
    return found


if __name__ == "__main__":
    main(measure)
