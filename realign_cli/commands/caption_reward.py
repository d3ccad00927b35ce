from __future__ import annotations

from realign_cli.commands import _map
from realign_cli.options import Blip, Map


def caption_reward(options: Map, backend: Blip = None) -> None:
    """Caption each image and reward the caption by its likeness to the prompt (Eq. 4).

    Adds 'caption' with the text and the reward, a cosine in [-1, 1].

    Examples:

    realign caption-reward --in coarse/ --out captioned/

    realign caption-reward --in coarse/ | jq .caption.reward

    realign generate --prompts prompts.txt --out coarse/ | lavis/bin/realign caption-reward --backend lavis
    """
    from realign_cli.stages.caption_reward import CaptionReward

    _map.run(options, lambda models: [CaptionReward(models)], backend=backend)
