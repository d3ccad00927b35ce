from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realign_cli.options import Blip, Common

Cache = Annotated[
    Path | None,
    typer.Option(
        envvar="REALIGN_CACHE",
        metavar="DIR",
        help="Where answers of models are remembered; if not given, in the user's cache folder.",
    ),
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images at a time.")]


def eval_(
    options: Common,
    source: Annotated[str, typer.Option("--in", metavar="DIR|FILE|-", help="Records to judge; - is a pipe.")] = "-",
    baseline: Annotated[Path | None, typer.Option(metavar="DIR", help="Records to compare with, paired by id.")] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="DIR|FILE.npz", help="Real images for fid: records, a plain folder, or statistics."),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="LIST", help="Some of fid, clip, negclip, blip, oracle; all, if not given.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write metrics.json, scores.jsonl, worst.jsonl and pictures.")
    ] = None,
    cache: Cache = None,
    batch_size: BatchSize = None,
    backend: Blip = None,
) -> None:
    """Measure how well images follow their prompts; every mean comes with n and a 95 % bootstrap interval.

    clip and negclip are raw cosines, blip is BLIP-2's contrastive cosine (blip_itc) and matching probability
    (blip_itm), oracle reads the pixels of the embedded world's images. fid needs --reference and gives FID and KID.
    What a model said of an image is remembered and not asked again. The table goes to stdout.

    Examples:

    realign eval --in final/ --baseline coarse/

    realign eval --in final/ --baseline coarse/ --metrics fid,clip --reference real/ --out eval/

    realign refine --in coarse/ --out final/ | realign eval --baseline coarse/ --json
    """
    from realign_cli.commands._eval import Session, chosen, reference_of
    from realign_cli.commands._report import Report
    from realign_cli.plumbing.stats import SUFFIX

    folder = reference if reference and reference.suffix != SUFFIX else None
    with Session(options, cache, batch_size, [source, baseline, folder], backend) as session:
        evaluate = session.evaluate(chosen(metrics, session.preset, reference))
        known = reference_of(session, reference) if reference and evaluate.extractor else None
        run = session.measure(source, evaluate)
        before = session.measure(str(baseline), evaluate) if baseline else None
        report = Report(evaluate, session.settings(evaluate), run, before, known)
    report.show(quiet=options.quiet, as_json=options.as_json)
    if out:
        report.write(out)
    if report.failed:
        raise typer.Exit(3)


def stats(
    options: Common,
    out: Annotated[Path, typer.Option(metavar="FILE.npz", help="Where the statistics go.")],
    source: Annotated[str, typer.Option("--in", metavar="DIR|FILE|-", help="Records, or a folder of images.")] = "-",
    cache: Cache = None,
    batch_size: BatchSize = None,
) -> None:
    """Write mean and covariance of the features of images, as a file for --reference that pytorch-fid reads as well.

    Examples:

    realign eval stats --in coco/val2014/ --out coco.npz --preset inception

    realign eval --in final/ --reference coco.npz --preset inception
    """
    from realign_cli.commands._eval import Session
    from realign_cli.errors import UsageError
    from realign_cli.plumbing.console import console, plain
    from realign_cli.plumbing.lock import held
    from realign_cli.plumbing.stats import SUFFIX, write_stats
    from realign_cli.stages.distance import reference
    from realign_cli.stages.eval import FID

    if out.suffix != SUFFIX:
        raise UsageError(f"--out {out}: a file of statistics ends in {SUFFIX}")
    with Session(options, cache, batch_size, [source]) as session:
        run = session.measure(source, session.evaluate([FID]))
        moments = reference(run.features).moments
        with held(out.parent):
            write_stats(out, moments.mean, moments.covariance, len(run.features), session.models.features.name)
    for line in run.complaints():
        console.print(plain(line), soft_wrap=True)
    if not options.quiet:
        console.print(plain(f"wrote {out}: {len(run.features)} images, {session.models.features.name}"), soft_wrap=True)
    if run.failures:
        raise typer.Exit(3)
