"""The methods that `realign bench` compares: the commands by which each makes its images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from realign_cli.commands.options import FINAL
from realign_cli.errors import UsageError
from realign_cli.fleet.steps import Step

_CAPTIONS = "keeps the image with the better caption reward, which reads texts with the encoder of the metric blip"
_GENERATE = ("generate", "--prompts", "{prompts}", "--seed", "{seed}")
GIVEN = ("refl",)  # methods that are plain with a trained model, which must be given


@dataclass(frozen=True)
class Method:
    """The steps from prompts to images, the folder that these lie in, and what must be known to compare them fairly."""

    steps: tuple[Step, ...]
    images: str
    note: str = ""


def _generated(name: str, *more: str, note: str = "") -> Method:
    return Method((Step(name, (*_GENERATE, *more)),), name, note)


def _best_of(count: int) -> Method:
    name = f"best-of-{count}"
    steps = (
        Step(f"{name}-draws", (*_GENERATE, "--images-per-prompt", str(count))),
        Step(f"{name}-captions", ("caption-reward", "--in", f"{{root}}{name}-draws")),
        Step(name, ("select", "--in", f"{{root}}{name}-captions")),
    )
    return Method(steps, name, _CAPTIONS)


_PLAIN = _generated("plain")
_FOUND = (  # what is in the plain images, for all methods that go by it
    *_PLAIN.steps,
    Step("plain-tags", ("tag", "--in", "{root}plain")),
    Step("plain-objects", ("score", "--in", "{root}plain-tags")),
    Step("plain-masks", ("segment", "--in", "{root}plain-objects")),
)


def _refined(name: str, *more: str, note: str = "") -> Method:
    return Method((*_FOUND, Step(name, ("refine", "--in", "{root}plain-masks", *more))), name, note)


METHODS: dict[str, Method] = {
    "plain": _PLAIN,
    **{name: _generated(name, "--method", name) for name in ("structure", "attend", "syngen", "predicated")},
    "dense": _refined("dense", "--method", "dense"),
    "promptist": Method(
        (
            Step("promptist-prompts", ("rewrite", "--prompts", "{prompts}")),
            Step(
                "promptist",
                ("generate", "--prompts", "{root}promptist-prompts/metadata.jsonl", "--seed", "{seed}"),
            ),
        ),
        "promptist",
    ),
    "best-of-2": _best_of(2),
    "best-of-4": _best_of(4),
    "realigndiff": _refined("realigndiff", "--method", "modulation", "--keep", "best", note=_CAPTIONS),
    "loop": Method((Step("loop", ("run", "--prompts", "{prompts}", "--seed", "{seed}")),), f"loop/{FINAL}", _CAPTIONS),
}


def with_models(models: Mapping[str, Path], notes: Mapping[str, str]) -> dict[str, Method]:
    """METHODS, and one for each trained model, plain generation by it; with the further notes that a preset has."""
    given = {
        name: _generated(name, "--model", str(folder), note=_trained_by(folder)) for name, folder in models.items()
    }
    return {
        name: replace(one, note="; ".join(filter(None, [one.note, notes.get(name)])))
        for name, one in (METHODS | given).items()
    }


def chosen(names: Sequence[str], known: Mapping[str, Method]) -> tuple[dict[str, Method], list[str]]:
    """The methods of these names, and the names of those that need a model which was not given.

    Raises:
        UsageError: an unknown name.
    """
    for name in names:
        if name not in known and name not in GIVEN:
            near = get_close_matches(name, [*known, *GIVEN], n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join([*METHODS, *GIVEN])}"
            raise UsageError(f"--methods {name}: no such method; {hint} --model {name}=DIR makes a trained model one")
    wanted = dict.fromkeys(names)
    return {name: known[name] for name in wanted if name in known}, [name for name in wanted if name not in known]


def _trained_by(folder: Path) -> str:
    """What a model learnt from, as `realign train` noted it beside the weights."""
    try:
        reward = json.loads((folder / "manifest.json").read_text())["config"]["train"]["reward"]
    except (OSError, ValueError, LookupError, TypeError):
        return "a trained model; nothing says by which reward"
    return f"trained by the reward {reward}"
