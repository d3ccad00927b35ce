from __future__ import annotations

from realign_cli.commands import _map
from realign_cli.commands.options import MapOptions


def segment(options: MapOptions) -> None:
    """Find each object in the image and cut it out.

    Completes 'objects' with boxes (x0, y0, x1, y1 in pixels) and a mask (COCO run lengths). With --out, the folder
    pictures/ gets a PNG of each mask and an overlay of all.

    Examples:

    realign tag --in coarse/ | realign score | realign segment --out segmented/

    realign segment --in scored/ --set detector.threshold=0.4
    """
    from realign_cli.commands._input import read

    models = _map.load(options)
    records = read(options)
    from realign_cli.stages.segment import Segment  # takes a while, and without records no time is lost

    _map.run(options, models, [Segment(models)], records, next_command="realign refine --in {out} --out final/")
