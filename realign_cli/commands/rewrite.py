from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realign_cli.commands import _map
from realign_cli.commands.options import RunOptions


def rewrite(
    options: RunOptions,
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="A .txt, .jsonl or COCO .json file of prompts.")],
) -> None:
    """Rewrite prompts for the generator, as Promptist does.

    Adds 'rewritten', which generate draws; 'text' stays what the user asked for, and everything that judges or refines
    an image goes by it. Where there is no rewriting of use, the prompt stays as it is: 'failures' says so, and the exit
    code is 3. The embedded rewriter turns careless prompts of its world into plain ones. Without --out the records go
    to stdout, which generate reads from a pipe as /dev/stdin; a folder continues an interrupted run.

    Examples:

    realign rewrite --prompts prompts.txt --out rewritten/

    realign generate --prompts rewritten/metadata.jsonl --out coarse/

    realign rewrite --prompts prompts.txt | realign generate --prompts /dev/stdin --out coarse/
    """
    from realign_cli.commands._input import Input
    from realign_cli.data.prompts import read_prompts
    from realign_cli.stages.rewrite import Rewrite

    models = _map.load(options)
    records = Input.of(list(read_prompts(prompts)))
    next_command = "realign generate --prompts {out}/metadata.jsonl --out coarse/"
    _map.run(options, models, [Rewrite(models)], records, next_command=next_command)
