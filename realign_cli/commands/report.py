from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realign_cli.commands.options import OutputOptions

if TYPE_CHECKING:
    from realign_cli.report.page import Written

NAME = "report.html"  # by convention


def report(
    options: OutputOptions,
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...", help="Folders of records and of evals, in the order to be shown, or folders of such."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The page.")] = Path(NAME),
    assets: Annotated[
        bool, typer.Option("--assets", help="Also write the images in full, into a folder beside the page.")
    ] = False,
) -> None:
    """Make one HTML page of records and evals, which opens from disk and needs nothing else.

    It shows what was run, the tables of evals with their intervals and figures, means against cost where three systems
    or more were measured, and of each prompt the images, what was found in them, the tries, captions and rewards.
    Prompts can be sorted by every number and by its change, filtered and searched; a click opens one in full.

    The folders are joined by prompt. What tag, score and segment wrote is shown with the images that it is about, and
    scores of an eval with those of its folder. What cannot be read is shown as failed; the exit code is then 3. With
    --assets the images lie in FILE-images/ as they are; without, the page holds them as thumbnails only.

    Examples:

    realign report out/ --out report.html

    realign report coarse/ segmented/ final/ eval/ --out paper/supplement.html --assets
    """
    from realign_cli.console import Verbosity, console, plain, write_json

    Verbosity(options.quiet, options.verbose).apply()
    written = write_report(folders, out, assets=assets, quiet=options.quiet or options.as_json)
    if options.as_json:
        names = {key: str(path) if path else None for key, path in (("page", written.page), ("images", written.images))}
        write_json({"command": "report", **asdict(written), **names})
    elif not options.quiet:
        failed = f", {written.failed} of which failed" if written.failed else ""
        line = f"wrote {out}: {written.prompts} prompts{failed}, {written.bytes / 1e6:.1f} MB"
        console.print(plain(line), soft_wrap=True)
        console.print(plain(f"open {out}"), soft_wrap=True)
    if written.failed:
        raise typer.Exit(3)


def write_report(folders: Sequence[Path], out: Path, *, quiet: bool, assets: bool = False) -> Written:
    """Make the page of these folders, with a bar over the prompts unless `quiet`.

    Raises:
        UsageError: `out` is no .html file, or as `read_sources`.
        RealignError: the page cannot be written.
    """
    from realign_cli.console import progress
    from realign_cli.errors import UsageError
    from realign_cli.report.gather import gather
    from realign_cli.report.page import write_page
    from realign_cli.report.sources import read_sources

    if out.suffix != ".html":
        raise UsageError(f"--out {out}: a page ends in .html")
    sources = read_sources(folders)
    gallery = gather(sources)
    with progress("report", len(gallery.cards), quiet=quiet) as advance:
        return write_page(sources, gallery, out, assets=assets, advance=advance)
