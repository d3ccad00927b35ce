from __future__ import annotations

from typing import Annotated

import typer

from realign_cli.commands import _map
from realign_cli.commands.options import MapOptions


def score(
    options: MapOptions,
    max_calls: Annotated[int | None, typer.Option(min=1, help="Ask a language model at most this many times.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Ask no more questions once the model has used this many tokens.")
    ] = None,
) -> None:
    """Say which tags belong in the image and which words of the prompt describe them (Eq. 6).

    Adds 'objects': for each tag a phrase of the prompt and a likelihood, 2 (certain), 0.5 (may be) or 0 (unlikely).

    Adds 'scorer', who said so. Where a language model cannot, rules do: 'failures' says why, and the exit code is 3.

    Examples:

    realign tag --in coarse/ | realign score | realign segment

    realign score --in tagged/ --preset model.toml --max-calls 1000 --out scored/
    """
    from realign_cli.commands._input import read
    from realign_cli.stages.score import Score

    given = {"max_calls": max_calls, "max_tokens": max_tokens}
    caps = {key: cap for key, cap in given.items() if cap is not None}
    models = _map.load(options, changes={"scorer": caps} if caps else None)
    records = read(options)
    _map.run(options, models, [Score(models)], records, next_command="realign segment --in {out} --out segmented/")
