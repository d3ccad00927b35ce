"""What a study asks, and who sees what where: the private account of a study, and how it is drawn from a seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from realign_cli.errors import UsageError
from realign_cli.files import atomic
from realign_cli.records import SCHEMA, require_schema

MANIFEST, SITE, IMAGES, DATABASE, FILES = "study.json", "site", "images", "answers.sqlite", "answers"
Form = Literal["all", "pairwise"]
_ITEMS_PER_CHECK, _FEWEST_CHECKS = 10, 2
_PROMPTS, _PLACES, _TRIALS = range(3)  # what is drawn: independent streams of one seed


@dataclass(frozen=True)
class Question:
    """A question in both forms, what a rater may say instead in the form "all", and what to look for."""

    all: str
    pairwise: str
    none: str
    advice: str

    def asked(self, form: Form) -> str:
        """Its words in one of the forms."""
        return self.all if form == "all" else self.pairwise


QUESTIONS = {
    "alignment": Question(
        "Which image fits the text best?",
        "Which image fits the text better?",
        "None of them fits",
        "Look for each thing that the text names: is it there, as often as the text says, in the right colour and "
        "place? Nothing else should stand out. How beautiful an image is does not count.",
    ),
    "fidelity": Question(
        "Which image looks best, whatever the text says?",
        "Which image looks better, whatever the text says?",
        "None of them looks right",
        "Look at the image alone: things should be whole, sharp and as they are in the world. What the text says does "
        "not count.",
    ),
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class Item(_Part):
    """One text with images to choose among.

    `images` are file names, those of `systems` in the same order; systems that made the same image share its name. An
    attention check has no prompt and no systems: the image that is `right` is the answer to every question.
    """

    text: str
    images: Annotated[tuple[str, ...], Field(strict=False)]
    systems: Annotated[tuple[str, ...], Field(strict=False)] = ()
    prompt: str | None = None
    right: str | None = None


class Trial(_Part):
    """An item by its place among those of the study, and its images in the order in which a rater sees them."""

    item: int
    images: Annotated[tuple[str, ...], Field(strict=False)]


class Rater(_Part):
    """One rater: the secret of the link, and the trials in order."""

    token: str
    trials: Annotated[tuple[Trial, ...], Field(strict=False)]


class Study(_Part):
    """All of a study but its answers. It says which image is whose, and so never reaches a browser."""

    form: Form
    questions: Annotated[tuple[str, ...], Field(strict=False)]
    systems: Annotated[tuple[str, ...], Field(strict=False)]
    seed: int
    squares: bool  # images so small that they are shown with their pixels as squares
    example: Item
    items: Annotated[tuple[Item, ...], Field(strict=False)]
    raters: Annotated[tuple[Rater, ...], Field(strict=False)]

    def write(self, folder: Path) -> None:
        """Write it as the file by which a folder is a study.

        Raises:
            RealignError: it cannot be written.
        """
        atomic.write_json(folder / MANIFEST, {"schema": SCHEMA, **self.model_dump(mode="json")})


def read_study(folder: Path) -> Study:
    """The study of a folder.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        require_schema(data, str(path))
        return Study.model_validate(data)
    except FileNotFoundError:
        raise UsageError(f"{folder}: no study in it; 'realign study make --out {folder}' makes one") from None
    except (OSError, ValueError, RecursionError):  # ValidationError is a ValueError
        raise UsageError(f"{path}: not readable; restore it, without it nobody knows which image is whose") from None


def plan(items: Sequence[Item], checks: Sequence[Item], raters: int, count: int, seed: int) -> list[tuple[Trial, ...]]:
    """The trials of each rater. `Trial.item` counts through `items` and then `checks`; the seed gives all chance.

    Each rater gets `count` prompts with all their items, in an order of the rater's own, and attention checks spread
    among them: one for ten items, at least two. Prompts go round, so that each is seen by as many raters as any other,
    or one more. Over the raters who see an item, each of its images stands equally often in each place, or once more: a
    random order is turned by one place from rater to rater, and drawn anew when it has gone round.
    """
    prompts = list(dict.fromkeys(item.prompt for item in items))
    of_prompt = {prompt: [i for i, item in enumerate(items) if item.prompt == prompt] for prompt in prompts}
    circle = np.random.default_rng([seed, _PROMPTS]).permutation(len(prompts))
    seen = [0] * (len(items) + len(checks))

    def trial(index: int) -> Trial:
        shown = tuple(dict.fromkeys((*items, *checks)[index].images))
        rounds, turn = divmod(seen[index], len(shown))
        order = np.roll(np.random.default_rng([seed, _PLACES, index, rounds]).permutation(len(shown)), turn)
        seen[index] += 1
        return Trial(item=index, images=tuple(shown[i] for i in order))

    plans = []
    for rater in range(raters):
        rng = np.random.default_rng([seed, _TRIALS, rater])
        chosen = [circle[(rater * count + i) % len(prompts)] for i in range(count)]
        indices = rng.permutation([index for place in chosen for index in of_prompt[prompts[place]]]).tolist()
        many = min(len(checks), max(_FEWEST_CHECKS, round(len(indices) / _ITEMS_PER_CHECK)))
        mixed = []
        for part, check in zip(np.array_split(indices, many), rng.permutation(len(checks)), strict=False):
            at = int(rng.integers(len(part) + 1))
            mixed += [*part[:at].tolist(), len(items) + int(check), *part[at:].tolist()]
        plans.append(tuple(trial(index) for index in mixed))
    return plans
