"""How long each stage took of an image: what a run folder keeps beside its records.

It is the one file of a folder that differs between two runs of the same configuration. A run that is killed leaves no
line, and its images are in no mean.
"""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from realign_cli.files import atomic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from realign_cli.console import StageTime

TIMES = "times.jsonl"


def add_times(folder: Path, stages: Mapping[str, StageTime]) -> None:
    """Append a line for each stage that worked on images; workers that share the folder each append theirs.

    Raises:
        RealignError: it cannot be written.
    """
    worked = {name: time for name, time in stages.items() if time.images}
    lines = [{"stage": name, "images": time.images, "seconds": round(time.seconds, 3)} for name, time in worked.items()]
    if lines:
        data = "".join(json.dumps(line) + "\n" for line in lines)
        with atomic.report_os_errors(folder / TIMES, len(data)), (folder / TIMES).open("a") as file:
            file.write(data)


def seconds_per_image(folder: Path) -> dict[str, float]:
    """The mean seconds of an image by stage, in the order of the work; none where nothing is known."""
    images: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    with suppress(OSError, ValueError, KeyError, TypeError):  # not a folder of ours, or edited: it decides nothing
        for line in (folder / TIMES).read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            images[entry["stage"]] += int(entry["images"])
            seconds[entry["stage"]] += float(entry["seconds"])
    return {stage: seconds[stage] / images[stage] for stage in images if images[stage] > 0}
