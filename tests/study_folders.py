"""Small studies, for tests of what raters see and of what becomes of their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from report_folders import HOSTILE, record, write_records

from realign_cli.study.answers import Answer
from realign_cli.study.design import Form, Item, Rater, Study, Trial, plan
from realign_cli.study.make import Request, make

TEXTS = ("a red square and a blue ring", "a pink cross", "two green circles", "an orange star", HOSTILE[0])
SYSTEMS = ("final", "plain", "structure")


def write_systems(root: Path, texts: Sequence[str] = TEXTS) -> dict[str, Path]:
    """Folders of records of the same prompts, in which every image is another."""
    lines = [record(f"{number}", text) for number, text in enumerate(texts)]
    return {name: write_records(root / name, lines, shade=20 * place) for place, name in enumerate(SYSTEMS)}


def make_study(
    root: Path,
    questions: Sequence[str] = ("alignment",),
    form: Form = "all",
    raters: int = 4,
    texts: Sequence[str] = TEXTS,
) -> Path:
    """A study of the systems that `write_systems` writes."""
    request = Request(questions, form, raters, count=None, seed=0)
    make(write_systems(root, texts), root / "study", request, advance=lambda count: None)
    return root / "study"


def drawn_study(prompts: int, raters: int, systems: Sequence[str] = SYSTEMS, form: Form = "all") -> Study:
    """A study without images: those of system s for prompt p are called "p-s", and the right one of a check "right"."""
    contests = [tuple(systems)] if form == "all" else [(systems[0], other) for other in systems[1:]]
    items = [
        Item(text=f"text {p}", prompt=f"{p}", systems=contest, images=tuple(f"{p}-{s}" for s in contest))
        for p in range(prompts)
        for contest in contests
    ]
    wrong = tuple(f"wrong {i}" for i in range(len(contests[0]) - 1))
    checks = [Item(text=f"check {i}", images=("right", *wrong), right="right") for i in range(12)]
    plans = plan(items, checks, raters, prompts, seed=0)
    return Study(
        form=form,
        questions=("alignment",),
        systems=tuple(systems),
        seed=0,
        squares=False,
        example=items[0],
        items=(*items, *checks),
        raters=tuple(Rater(token=f"token{r}", trials=trials) for r, trials in enumerate(plans)),
    )


def answer_all(study: Study, choose: Callable[[int, Item, Trial], str | None]) -> dict[str, list[Answer]]:
    """The answers of raters who choose by their number, the item and the trial."""
    return {
        rater.token: [
            Answer(trial=i, question=question, choice=choose(number, study.items[trial.item], trial), ms=1000)
            for i, trial in enumerate(rater.trials)
            for question in study.questions
        ]
        for number, rater in enumerate(study.raters)
    }
