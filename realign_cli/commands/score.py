from __future__ import annotations

from realign_cli.commands import _map
from realign_cli.options import Map


def score(options: Map) -> None:
    """Say which tags belong in the image and which words of the prompt describe them (Eq. 6).

    Adds 'objects': for each tag a phrase of the prompt and a likelihood, 2 (certain), 0.5 (may be) or 0 (unlikely).

    Examples:

    realign tag --in coarse/ | realign score | realign segment

    realign score --in tagged/ --out scored/
    """
    from realign_cli.stages.score import Score

    _map.run(options, lambda models: [Score(models)], next_command="realign segment --in {out} --out segmented/")
