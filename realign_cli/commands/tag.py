from __future__ import annotations

from realign_cli.commands import _map
from realign_cli.commands.options import MapOptions


def tag(options: MapOptions) -> None:
    """Recognise what is in each image.

    Adds 'tags': labels with confidences, most confident first.

    Examples:

    realign tag --in coarse/ | realign score

    realign tag --in coarse/ --set tagger.threshold=0.8 --out tagged/
    """
    from realign_cli.commands._input import read
    from realign_cli.stages.tag import Tag

    models = _map.load(options)
    records = read(options)
    _map.run(options, models, [Tag(models)], records, next_command="realign score --in {out} --out scored/")
