from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realign_cli.options import Common

if TYPE_CHECKING:
    from collections.abc import Iterator

    from realign_cli.plumbing.console import Advance
    from realign_cli.records import Item
    from realign_cli.stages.eval import Row

DEFAULT = "clip,negclip,blip,oracle"
_PIPE_WIDTH = 160  # columns of the table where there is no terminal to ask


def eval_(
    options: Common,
    source: Annotated[str, typer.Option("--in", metavar="DIR|FILE|-", help="Records to judge; - is a pipe.")] = "-",
    baseline: Annotated[Path | None, typer.Option(metavar="DIR", help="Records to compare with, paired by id.")] = None,
    reference: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Real images for fid: a folder with records.")
    ] = None,
    metrics: Annotated[
        str, typer.Option(metavar="LIST", help="Of fid, clip, negclip, blip, oracle; fid wants --reference.")
    ] = DEFAULT,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write metrics.json and scores.jsonl here.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at a time.")] = None,
) -> None:
    """Measure how well images follow their prompts; every number comes with n and a 95 % bootstrap interval.

    clip and negclip are raw cosines, blip is BLIP-2's contrastive cosine (blip_itc) and matching probability
    (blip_itm), oracle reads the pixels of the embedded world's images. The table goes to stdout.

    Examples:

    realign eval --in final/ --baseline coarse/

    realign eval --in final/ --metrics fid,clip --reference real/ --out eval/ --json
    """
    import json
    import sys
    from contextlib import ExitStack
    from dataclasses import asdict

    from rich.console import Console

    from realign_cli import presets
    from realign_cli.plumbing import atomic
    from realign_cli.plumbing import source as sources
    from realign_cli.plumbing.console import Verbosity, progress, table
    from realign_cli.registry import Models
    from realign_cli.stages.eval import FID, Evaluate, compare, frechet

    Verbosity(options.quiet, options.verbose).apply()
    preset = presets.load(options.preset, options.overrides)
    wanted = _chosen(metrics, reference is not None, preset.sections)
    models = Models(preset, options.device)
    evaluate = Evaluate(models, wanted)
    size = batch_size or preset.batch_size
    folders = [str(f) for f in (source, baseline, reference) if f]
    total = [sources.count_records(folder) for folder in folders]
    with ExitStack() as stack:
        whole = sum(filter(None, total)) if None not in total else None
        advance = stack.enter_context(progress("eval", whole, quiet=options.quiet))
        measured = evaluate.measure(_batches(source, size, advance))
        before = evaluate.measure(_batches(str(baseline), size, advance)) if baseline else None
        real = Evaluate(models, [FID]).measure(_batches(str(reference), size, advance)) if FID in wanted else None
    rows = compare(measured.scores, before.scores if before else None)
    report: dict[str, Any] = {"metrics": [asdict(row) for row in rows], **models.describe(wanted)}
    if real:
        report[FID] = {"features": models.features.name, "in": frechet(measured, real)}
        if before:
            report[FID]["baseline"] = frechet(before, real)
    if out:
        lines = [json.dumps({"id": i, **values}) for i, values in measured.scores.items()]
        atomic.write_text(out / "scores.jsonl", "".join(line + "\n" for line in lines))
        atomic.write_json(out / "metrics.json", report)
    if options.as_json:
        typer.echo(json.dumps(report))
        return
    screen = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    screen.print(table(["metric", "n", "mean", "95 %", "baseline", "difference", "95 %", "won/lost"], _cells(rows)))
    for name, value in report.get(FID, {}).items():
        if name != "features":
            screen.print(
                f"fid ({name}): {value['value']:.3f}  n {value['n']} against {value['n_reference']}, "
                f"{value['dimensions']}-d features of {report[FID]['features']}",
                soft_wrap=True,
            )


def _chosen(metrics: str, has_reference: bool, sections: Any) -> list[str]:
    from realign_cli.errors import UsageError

    known = [name for name in ("fid", "clip", "negclip", "blip", "oracle") if name in sections]
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    if metrics == DEFAULT:
        names = [name for name in names if name in known]
    for name in names:
        if name not in known:
            raise UsageError(f"--metrics {name}: no such metric in this preset; there are {', '.join(known)}")
    if "fid" in names and not has_reference:
        raise UsageError("--metrics fid compares with real images: give --reference DIR")
    return names


def _batches(folder: str, size: int, advance: Advance) -> Iterator[list[Item]]:
    from realign_cli.errors import RecordError, UsageError
    from realign_cli.plumbing import source as sources
    from realign_cli.records import Item

    batch: list[Item] = []
    for entry in sources.read_records(folder):
        try:
            image = sources.open_image(sources.image_path(entry.record, entry.base))
        except RecordError as error:
            raise UsageError(f"{entry.place}: {error}") from None
        batch.append(Item(entry.record, image))
        if len(batch) == size:
            yield batch
            advance(len(batch))
            batch = []
    if batch:
        yield batch
        advance(len(batch))


def _cells(rows: list[Row]) -> list[list[str]]:
    cells = []
    for row in rows:
        line = [row.metric, str(row.value.n), f"{row.value.mean:.3f}", f"{row.value.low:.3f} to {row.value.high:.3f}"]
        if row.baseline and row.difference:
            d = row.difference
            line += [f"{row.baseline.mean:.3f}", f"{d.mean:+.3f}", f"{d.low:+.3f} to {d.high:+.3f}"]
            line += [f"{row.won}/{row.lost}"]
        cells.append(line + [""] * (8 - len(line)))
    return cells
