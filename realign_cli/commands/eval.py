from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realign_cli.commands.options import COARSE, FINAL, BackendOption, ModelOptions

Cache = Annotated[
    Path | None,
    typer.Option(
        envvar="REALIGN_CACHE",
        metavar="DIR",
        help="Folder where the answers of models are remembered; by default in the user's cache folder.",
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Number of images worked on together; by default the preset's.")
]


def eval_(
    options: ModelOptions,
    source: Annotated[
        str | None,
        typer.Option(
            "--in",
            metavar="DIR|FILE|-",
            help="Records to judge; - is stdin. By default what is piped in, else final/, else coarse/.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Records to compare with, paired by prompt. By default coarse/, if final/ is judged by default.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE.npz",
            help="Real images for fid: records, a plain folder, or statistics. By default the preset's own.",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Some of fid, the preset's own (clip, negclip, blip, oracle) and module:Class of your own. "
            "By default all of the preset's, but fid only with --reference.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for metrics.json, scores of each image, worst.jsonl and pictures."),
    ] = None,
    cache: Cache = None,
    batch_size: BatchSize = None,
    backend: BackendOption = None,
) -> None:
    """Measure how well images follow their prompts; every mean comes with n and a 95 % bootstrap interval.

    clip and negclip are raw cosines, blip is BLIP-2's contrastive cosine (blip_itc) and matching probability
    (blip_itm), oracle reads the pixels of the embedded world's images. fid gives FID, and KID to a --reference of
    images. What a model said of an image is remembered and not asked again. The table goes to stdout.
    A metric of your own is a class that satisfies the protocol ImageTextMetric: CONTRIBUTING.md.

    Examples:

    realign eval --metrics fid,clip,negclip,blip

    realign eval --in final/ --baseline coarse/

    realign eval --in final/ --metrics clip,mymetrics:Sharpness

    realign eval --in final/ --baseline coarse/ --metrics fid,clip --reference real/ --out eval/

    realign refine --in coarse/ --out final/ | realign eval --baseline coarse/ --json
    """
    from realign_cli import presets
    from realign_cli.commands._input import comparison
    from realign_cli.console import Verbosity
    from realign_cli.evaluation.evaluate import FID
    from realign_cli.evaluation.reference import named_reference
    from realign_cli.evaluation.report import Report
    from realign_cli.evaluation.session import chosen, count, reference_of, session
    from realign_cli.registry import Models

    Verbosity(options.quiet, options.verbose).apply()
    preset = presets.load(options.preset, options.overrides, backend)
    names = chosen(metrics, preset, reference)
    preset = preset.with_adapters(name for name in names if ":" in name)
    if reference and FID in names:
        preset = preset.with_section(FID, {"reference": str(reference)})
    models = Models(preset, options.device)
    source, baseline = comparison(source, baseline, quiet=options.quiet)
    against = named_reference(preset, options.preset_argument) if FID in names else None
    total = count([source, baseline, against and against.path])
    with session(models, cache, batch_size, total, quiet=options.quiet) as opened:
        evaluate = opened.evaluate(names)
        known = reference_of(opened, against) if against else None
        run = opened.measure(source, evaluate)
        before = opened.measure(str(baseline), evaluate) if baseline else None
        report = Report(evaluate, opened.settings(evaluate), run, before, known)
    report.show(quiet=options.quiet, as_json=options.as_json)
    if out:
        report.write(out)
    if report.failed:
        raise typer.Exit(3)


def stats(
    options: ModelOptions,
    out: Annotated[Path, typer.Option(metavar="FILE.npz", help="File for the statistics.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--in",
            metavar="DIR|FILE|-",
            help="Records, or images; - is stdin. By default what is piped in, else final/, else coarse/.",
        ),
    ] = None,
    cache: Cache = None,
    batch_size: BatchSize = None,
) -> None:
    """Write mean and covariance of the features of images, as a file for --reference that pytorch-fid reads as well.

    Examples:

    realign eval stats --in coco/val2014/ --out coco.npz --preset inception

    realign eval --in final/ --reference coco.npz --preset inception
    """
    from realign_cli import presets
    from realign_cli.commands._input import records
    from realign_cli.console import Verbosity, console, plain, write_json
    from realign_cli.errors import UsageError
    from realign_cli.evaluation.distance import reference
    from realign_cli.evaluation.evaluate import FID
    from realign_cli.evaluation.fid_stats import SUFFIX, write_stats
    from realign_cli.evaluation.session import count, session
    from realign_cli.registry import Models
    from realign_cli.runs.lock import folder_lock

    if out.suffix != SUFFIX:
        raise UsageError(f"--out {out}: a file of statistics ends in {SUFFIX}")
    Verbosity(options.quiet, options.verbose).apply()
    models = Models(presets.load(options.preset, options.overrides), options.device)
    source = records(source, (FINAL, COARSE), quiet=options.quiet)
    with session(models, cache, batch_size, count([source]), quiet=options.quiet) as opened:
        run = opened.measure(source, opened.evaluate([FID]))
        moments = reference(run.features).moments
        with folder_lock(out.parent):
            write_stats(out, moments.mean, moments.covariance, len(run.features), models.features.name)
    for line in run.warnings():
        console.print(plain(line), soft_wrap=True)
    if options.as_json:
        write_json({"command": "eval stats", "out": str(out), "images": len(run.features), "failed": len(run.failures)})
    elif not options.quiet:
        console.print(plain(f"wrote {out}: {len(run.features)} images, {models.features.name}"), soft_wrap=True)
    if run.failures:
        raise typer.Exit(3)
