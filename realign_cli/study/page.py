"""The page of one rater: it holds texts and names of images, and nothing by which a system could be known."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from realign_cli.pages.templates import environment, packaged, source_hash, style_of
from realign_cli.study.design import IMAGES, QUESTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Template

    from realign_cli.study.answers import Answer
    from realign_cli.study.design import Rater, Study

_ROOM = "realign_cli.study"


def render(study: Study, rater: Rater, answers: Sequence[Answer] = (), *, served: bool) -> str:
    """The page; `answers` are those that the rater gave before.

    A page that is served sends each answer to where it came from. Otherwise the browser keeps them, and the rater
    downloads them at the end.
    """
    asked = {name: QUESTIONS[name] for name in study.questions}
    style, script = _sources()
    return _template().render(
        style=style,
        script=script,
        policy=policy(served=served),
        images=IMAGES,
        served=served,
        study=study,
        asked=asked,
        shown=max(len(trial.images) for trial in rater.trials),
        data={
            "token": rater.token,
            "served": served,
            "images": IMAGES,
            "none": study.form == "all",
            "questions": [{"name": n, "text": q.asked(study.form), "none": q.none} for n, q in asked.items()],
            "trials": [{"text": study.items[one.item].text, "images": one.images} for one in rater.trials],
            "answers": [one.model_dump() for one in answers],
        },
    )


def policy(*, served: bool) -> str:
    """The content security policy of a page: its own style and script, its images, and where its answers go."""
    style, script = map(source_hash, _sources())
    images, connect = ("'self' data:", "'self'") if served else ("file: 'self' data:", "'none'")
    return (
        f"default-src 'none'; img-src {images}; style-src {style}; script-src {script}; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _sources() -> tuple[str, str]:
    return style_of(_ROOM), packaged(_ROOM, "page.js")


@cache
def _template() -> Template:
    return environment(_ROOM).get_template("page.html.j2")
