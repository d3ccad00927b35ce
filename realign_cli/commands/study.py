from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from realign_cli.commands.options import OutputOptions

if TYPE_CHECKING:
    from realign_cli.study.design import Study
    from realign_cli.study.results import Results

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder that study make wrote.")]


def study() -> None:
    """Ask people which system's images fit their prompts best: the questionnaire of the paper's Figure 8.

    make writes a study, serve runs it for raters in their browsers, results counts their answers (docs/study.md).
    """


def make(
    options: OutputOptions,
    source: Annotated[Path, typer.Option("--in", metavar="DIR", help="Folder of records of the system in question.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the study.")],
    against: Annotated[
        list[Path],
        typer.Option(metavar="DIR", help="Folder of records to compare with; more may follow, or repeat it."),
    ],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="DIR...", help="Further folders to compare with, after --against.")
    ] = None,
    questions: Annotated[
        str, typer.Option(metavar="LIST", help="What to ask of each prompt, in order: alignment, fidelity.")
    ] = "alignment",
    form: Annotated[
        Literal["all", "pairwise"],
        typer.Option(help="Show all systems at once, or --in with one other at a time."),
    ] = "all",
    raters: Annotated[int, typer.Option(min=1, help="Number of raters, who have a link each.")] = 20,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=1, help="Prompts that each rater is asked about; by default all."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of who sees what in which order.")] = 0,
) -> None:
    """Write a study: for each rater a page with the images of all systems, unnamed and in random order.

    Compared are the prompts, by id, of which all systems have an image. DIR/site has what browsers are given: serve it
    with study serve, or put it on any host of static files, where raters download their answers and send you the
    files, which go to DIR/answers. DIR/study.json says which image is whose: keep it to yourself.

    Examples:

    realign study make --in final/ --against plain/ structure/ --out study/ --questions alignment,fidelity

    realign study make --in final/ --against plain/ --form pairwise -n 50 --out study/
    """
    from realign_cli.commands.compare import folder_names
    from realign_cli.console import Verbosity, console, plain, progress, write_json
    from realign_cli.study.make import Request
    from realign_cli.study.make import make as write

    Verbosity(options.quiet, options.verbose).apply()
    folders = [source, *against, *(more or [])]
    names = dict(zip(folder_names(folders), folders, strict=True))
    request = Request(list(dict.fromkeys(map(str.strip, questions.split(",")))), form, raters, count, seed)
    with progress("study", None, quiet=options.quiet or options.as_json) as advance:
        made = write(names, out, request, advance=advance)
    trials = [len(rater.trials) for rater in made.study.raters]
    prompts = len({item.prompt for item in made.study.items if item.right is None})
    for line in made.failures:
        console.print(plain(line), soft_wrap=True)
    if options.as_json:
        told = {"out": str(out), "systems": list(names), "prompts": prompts, "raters": raters, "trials": max(trials)}
        write_json({"command": "study make", **told, "notices": made.notices, "failed": len(made.failures)})
    elif not options.quiet:
        wrote = f"wrote {out}: {prompts} prompts, {raters} raters with {max(trials)} trials each"
        for line in (*made.notices, wrote, f"next: realign study serve {out}"):
            console.print(plain(line), soft_wrap=True)
    if made.failures:
        raise typer.Exit(3)


def serve(
    options: OutputOptions,
    folder: Folder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any free one.")] = 8000,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; by default this computer only.")
    ] = "127.0.0.1",
) -> None:
    """Serve a study to its raters, and write the link of each to stdout.

    Answers go to DIR/answers.sqlite as they are given. The server may be killed and started again at any time, and
    raters go on where they were. Other computers reach it with --host 0.0.0.0, or through a reverse proxy, which should
    speak HTTPS. Needs pip install 'realign[study]'.

    Examples:

    realign study serve study/ --port 8000
    """
    from importlib.util import find_spec

    from realign_cli.console import Verbosity, console, plain
    from realign_cli.errors import UsageError
    from realign_cli.study.design import DATABASE, read_study

    if not (find_spec("starlette") and find_spec("uvicorn")):
        raise UsageError("to serve needs Starlette and uvicorn: pip install 'realign[study]'")
    from realign_cli.study.server import listen
    from realign_cli.study.server import serve as run

    Verbosity(options.quiet, options.verbose).apply()
    made = read_study(folder)
    listening = listen(host, port)
    _show_links(made, host, listening.getsockname()[1], as_json=options.as_json)
    if not options.quiet:
        console.print(plain("serving until Ctrl-C"), soft_wrap=True)
    try:
        run(made, folder, listening)
    except KeyboardInterrupt:
        if not options.quiet:
            console.print(plain(f"stopped; answers are in {folder / DATABASE}"), soft_wrap=True)
            console.print(plain(f"next: realign study results {folder}"), soft_wrap=True)


def _show_links(made: Study, host: str, port: int, *, as_json: bool) -> None:
    """The links of all raters on stdout; an address that stands for all is replaced by this computer's name."""
    import platform
    import sys

    from realign_cli.console import write_json

    name = platform.node() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    links = [f"http://{name}:{port}/{rater.token}" for rater in made.raters]
    if as_json:
        write_json({"command": "study serve", "links": links})
    else:
        sys.stdout.write("".join(f"{link}\n" for link in links))
    sys.stdout.flush()


def results(
    options: OutputOptions,
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for table.md, table.tex, table.json and table.png.")
    ] = None,
) -> None:
    """Count the answers of a study: each system's share, and how far raters agree.

    Counted are the answers that study serve got, while it runs too, and those in DIR/answers/*.json that raters
    downloaded. Intervals are 95 %, clustered by rater and by prompt. Raters who failed more than a fifth of their
    attention checks are left out and listed. Needs pip install 'realign[study]'.

    Examples:

    realign study results study/ --out paper/
    """
    from importlib.util import find_spec

    from realign_cli.console import Verbosity, write_json
    from realign_cli.errors import UsageError
    from realign_cli.study.answers import read_answers
    from realign_cli.study.design import read_study
    from realign_cli.study.results import results as count

    if not find_spec("krippendorff"):
        raise UsageError("agreement is measured with krippendorff: pip install 'realign[study]'")
    Verbosity(options.quiet, options.verbose).apply()
    made = read_study(folder)
    found = count(made, *read_answers(folder, made))
    if not found.tallies:
        raise UsageError(
            f"{folder}: no answers that count yet ({len(found.raters)} raters began); 'realign study serve'"
        )
    if options.as_json:
        write_json({"command": "study results", "form": made.form, **asdict(found)})
    else:
        _show(made, found, quiet=options.quiet)
    if out:
        _write(out, made, found)


def _show(made: Study, found: Results, *, quiet: bool) -> None:
    """The tables on stdout."""
    import sys

    from rich.console import Console

    from realign_cli.console import plain, table
    from realign_cli.evaluation.report import PIPE_WIDTH
    from realign_cli.study import tables

    screen = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    for tally in found.tallies:
        screen.print(plain(tables.title(made, tally)), soft_wrap=True)
        screen.print(table(tables.COLUMNS, tables.cells(tally)), soft_wrap=True)
        screen.print(plain(tables.agreement_line(tally)), soft_wrap=True)
        screen.print()
    if not quiet:
        screen.print(table(tables.RATERS, tables.rater_cells(found.raters)), soft_wrap=True)
    for line in tables.notes(made, found):
        screen.print(plain(line), soft_wrap=True)


def _write(out: Path, made: Study, found: Results) -> None:
    from realign_cli.evaluation import plots
    from realign_cli.files import atomic
    from realign_cli.runs.lock import folder_lock
    from realign_cli.study import tables

    panels = [
        (tables.title(made, tally), [(one.system, one.share, i == 0) for i, one in enumerate(tally.shares)])
        for tally in found.tallies
    ]
    with folder_lock(out):
        atomic.write_text(out / "table.md", tables.markdown(made, found))
        atomic.write_text(out / "table.tex", tables.latex(made, found))
        atomic.write_json(out / "table.json", asdict(found))
        atomic.write_png(out / "table.png", plots.panels(panels))
