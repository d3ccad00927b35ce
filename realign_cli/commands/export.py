from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from realign_cli.commands.options import COARSE, FINAL, OutputOptions

Layout = Literal["geneval", "t2i-compbench"]


def export(
    options: OutputOptions,
    layout: Annotated[
        Layout, typer.Argument(metavar="geneval|t2i-compbench", help="The benchmark whose folder layout is written.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the images, a new one.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--in",
            metavar="DIR|FILE|-",
            help="Records to export; - is stdin. By default what is piped in, else final/, else coarse/.",
        ),
    ] = None,
) -> None:
    """Write the images of records as the folders that GenEval and T2I-CompBench judge.

    GenEval wants the keys of its own prompt file ('tag', 'include') in the records: generate from its
    evaluation_metadata.jsonl, and they are.

    Examples:

    realign export geneval --in final/ --out for-geneval/

    realign export t2i-compbench --in final/ --out for-compbench/
    """
    from realign_cli.commands import _input
    from realign_cli.console import Verbosity
    from realign_cli.runs import interchange

    Verbosity(options.quiet, options.verbose).apply()
    source = _input.records(source, (FINAL, COARSE), quiet=options.quiet)
    write = interchange.export_geneval if layout == "geneval" else interchange.export_t2i_compbench
    summary = write(source, out)
    summary.show(quiet=options.quiet, as_json=options.as_json)
    if summary.failed:
        raise typer.Exit(3)
