from __future__ import annotations

from realign_cli.commands import _map
from realign_cli.commands.options import BackendOption, MapOptions


def caption_reward(options: MapOptions, backend: BackendOption = None) -> None:
    """Caption each image and reward the caption by its likeness to the prompt (Eq. 4).

    Adds 'caption' with the text and the reward, a cosine in [-1, 1].

    Examples:

    realign caption-reward --in coarse/ --out captioned/

    realign caption-reward --in coarse/ | jq .caption.reward

    realign generate --prompts prompts.txt --out coarse/ | lavis/bin/realign caption-reward --backend lavis
    """

    from realign_cli.commands._input import read

    models = _map.load(options, backend=backend)
    records = read(options)
    from realign_cli.stages.caption_reward import CaptionReward  # takes seconds, and without records none are lost

    _map.run(options, models, [CaptionReward(models)], records)
