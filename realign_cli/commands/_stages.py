"""The sections of a preset whose models each command holds at the same time, as its stages declare them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realign_cli.registry import metric_sections
from realign_cli.roles import ROLES
from realign_cli.stages.caption_reward import CaptionReward
from realign_cli.stages.generate import Generate
from realign_cli.stages.refine import Refine
from realign_cli.stages.rewrite import Rewrite
from realign_cli.stages.score import Score
from realign_cli.stages.segment import Segment
from realign_cli.stages.select import Select
from realign_cli.stages.tag import Tag

if TYPE_CHECKING:
    from realign_cli.presets import Preset

STAGES = {
    "rewrite": Rewrite.sections,
    "generate": Generate.sections,
    "caption-reward": CaptionReward.sections,
    "select": Select.sections,
    "tag": Tag.sections,
    "score": Score.sections,
    "segment": Segment.sections,
    "refine": (*Tag.sections, *Score.sections, *Segment.sections, *Refine.sections),
}


def sections_held(preset: Preset) -> dict[str, tuple[str, ...]]:
    """The sections whose models a command holds; for training they are those of the caption reward and its watch."""
    return {
        "train": (*Generate.sections, *CaptionReward.sections, "tagger", "detector", "clip"),
        **STAGES,
        "eval": (*metric_sections(preset), ROLES["features"].section),
    }


def models_on_gpu() -> int:
    """How many models a worker of `realign run` holds that run on a GPU, where there is one."""
    used = {*STAGES["generate"], *STAGES["refine"]}
    return sum(role.on_device and role.section in used for role in ROLES.values())
