from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from realign_cli.commands.options import OutputOptions

if TYPE_CHECKING:
    from realign_cli.records import Record


PromptSet = Literal["coco", "abc6k", "cc500", "shapes"]
_STRUCTURED = "https://raw.githubusercontent.com/weixi-feng/Structured-Diffusion-Guidance/master"
# Where a set is published, and the SHA-256 of the file where it is known.
_PUBLISHED: dict[PromptSet, tuple[str, str | None]] = {
    "coco": ("http://images.cocodataset.org/annotations/annotations_trainval2014.zip", None),
    "abc6k": (
        f"{_STRUCTURED}/ABC-6K.txt",
        "47fa3ec1a839e6b74bb4f8e3746b454c8a8fb469cef66effddd172473f0f507b",
    ),
    "cc500": (
        f"{_STRUCTURED}/CC-500.txt",
        "b36a39e83459508e1676372902f2becdb48f977ed13868600e6e27e26b301777",
    ),
}
_COCO_CAPTIONS = "annotations/captions_val2014.json"


def prompts(
    options: OutputOptions,
    name: Annotated[PromptSet, typer.Argument(metavar="coco|abc6k|cc500|shapes", help="The set of prompts.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="File for the prompts; by default stdout.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--in", metavar="FILE", help="The published file, if it need not be downloaded.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Only the first N prompts.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="For cc500: all 602 lines, not only the 446 about colours.")
    ] = False,
) -> None:
    """Write the prompts of an evaluation, one JSON line each, with ids that stay.

    coco is 5,000 captions of COCO 2014 val, one of an image, always the same; abc6k is pairs of captions with two
    colours swapped, for which eval asks whether an image fits its own better; cc500 binds two colours to two objects;
    shapes are prompts of the embedded world that no embedded model has seen.

    Examples:

    realign prompts shapes -n 16 > prompts.jsonl

    realign prompts abc6k --in ABC-6K.txt --out abc6k.jsonl
    """
    from realign_cli.console import Summary
    from realign_cli.errors import UsageError
    from realign_cli.files import atomic
    from realign_cli.records import dump_line
    from realign_cli.runs.lock import folder_lock

    began = time.monotonic()
    if everything and name != "cc500":
        raise UsageError("--all is for cc500; the other sets have one size")
    if options.as_json and out is None:
        raise UsageError("--json writes the summary to stdout, in place of the prompts: give them an --out FILE.jsonl")
    records = prompt_set(name, file, everything)[:count]
    lines = "".join(dump_line(record) + "\n" for record in records)
    if out:
        with folder_lock(out.parent):
            atomic.write_text(out, lines)
    else:
        sys.stdout.write(lines)
    summary = Summary("prompts", len(records), seconds=time.monotonic() - began, out=str(out) if out else None)
    if out:
        summary.next_command = f"realign generate --prompts {shlex.quote(str(out))} --out coarse/"
    summary.show(quiet=options.quiet, as_json=options.as_json)


def prompt_set(name: PromptSet, file: Path | None = None, everything: bool = False) -> list[Record]:
    """The prompts of a set, of its published `file` or downloaded; `everything` is as of the option --all.

    Raises:
        UsageError: the file is another one.
        RealignError: it cannot be downloaded.
    """
    from realign_cli.data import prompt_sets
    from realign_cli.data.records import read_text
    from realign_cli.records import Record

    if name == "shapes":
        from realign_cli.tinyworld.scenes import held_out_prompts

        return [Record(id=f"{number:06d}", text=text) for number, text in enumerate(held_out_prompts())]
    text = read_text(file or _published(name), member=_COCO_CAPTIONS)
    if name == "coco":
        return prompt_sets.coco(text)
    return prompt_sets.abc6k(text) if name == "abc6k" else prompt_sets.cc500(text, everything=everything)


def _published(name: PromptSet) -> Path:
    from realign_cli.files.cache_folder import cache_folder
    from realign_cli.files.download import download_file

    url, sha256 = _PUBLISHED[name]
    path = cache_folder() / "prompts" / url.rsplit("/", 1)[-1]
    return download_file(url, path, sha256, remedy="download it elsewhere and give --in FILE")
