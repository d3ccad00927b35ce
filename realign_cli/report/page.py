"""Sources and gallery -> one HTML file that needs nothing else, and beside it the full images, if they are wanted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from realign_cli.errors import RecordError
from realign_cli.evaluation.report import COLUMNS, cells, cost_line, distance_line
from realign_cli.files import atomic
from realign_cli.pages.templates import environment, packaged, source_hash, style_of
from realign_cli.pictures import PALETTE, ink
from realign_cli.report.figures import frontier, measured_systems, whiskers
from realign_cli.report.thumbnails import PIXEL_ART, Thumbnails, plot
from realign_cli.runs.lock import folder_lock

if TYPE_CHECKING:
    from PIL.Image import Image

    from realign_cli.console import Advance
    from realign_cli.report.gather import Card, Gallery, Picture
    from realign_cli.report.sources import EvalFolder, Sources

_ROOM = "realign_cli.report"
_THREADS = 4


@dataclass(frozen=True)
class Thumbnail:
    """A picture as the page holds it: `src` is its image, or `same` the place of an equal one among the card's.

    `full` is the address of the picture beside the page; `reason` says why there is no image. `pixels`: so small that
    it is shown with its pixels as squares.
    """

    picture: Picture
    src: str = ""
    same: int | None = None
    size: tuple[int, int] = (1, 1)
    full: str | None = None
    reason: str | None = None

    @property
    def pixels(self) -> bool:
        return max(self.size) <= PIXEL_ART


@dataclass(frozen=True)
class Shown:
    """A card with its thumbnails; `reasons` are what is wrong with it, pictures that cannot be drawn among them."""

    card: Card
    pictures: list[Thumbnail]
    tries: list[Thumbnail]
    reasons: list[str]


@dataclass(frozen=True)
class Written:
    """A report: its page and the bytes of that, the folder of full images, its prompts, and how many failed."""

    page: Path
    bytes: int
    images: Path | None
    prompts: int
    failed: int


def images_folder(page: Path) -> Path:
    """Where the full images of a page lie."""
    return page.with_name(f"{page.stem}-images")


def write_page(sources: Sources, gallery: Gallery, page: Path, *, assets: bool, advance: Advance) -> Written:
    """Write the page, and with `assets` the full images beside it; the same sources give the same bytes.

    `advance` is told of every prompt that is drawn.

    Raises:
        RealignError: it cannot be written.
    """
    images = images_folder(page) if assets else None
    thumbnail = Thumbnails(sum(len(card.pictures) + len(card.tries) for card in gallery.cards))
    cards = []
    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))
    try:
        for one in pool.map(lambda card: _show(card, thumbnail, images), gallery.cards):
            cards.append(one)
            advance(1)
    finally:
        pool.shutdown(cancel_futures=True)  # after an interrupt no more cards are drawn
    with folder_lock(page.parent), atomic.report_os_errors(page), atomic.writing(page) as file:
        for piece in _render(sources, gallery, cards):
            file.write(piece.encode(errors="replace"))  # of a folder, whose name may be no text
    return Written(page, page.stat().st_size, images, len(cards), sum(bool(one.reasons) for one in cards))


def _show(card: Card, thumbnail: Callable[[Image], str], images: Path | None) -> Shown:
    """Draw the pictures of a card."""
    thumbnails: list[Thumbnail] = []
    for number, picture in enumerate([*card.pictures, *card.tries]):
        try:
            image = picture.draw()
        except RecordError as error:
            thumbnails.append(Thumbnail(picture, reason=str(error)))
            continue
        one = Thumbnail(picture, thumbnail(image), size=image.size)
        if images:
            suffix = picture.original.suffix if picture.original else ".png"
            one = replace(one, full=_keep(picture, image, images / f"{card.id}-{number}{suffix}"))
        same = next((i for i, other in enumerate(thumbnails) if other.src == one.src), None)
        thumbnails.append(one if same is None else replace(one, src="", same=same))
    missing = [f"{one.picture.title}: {one.reason}" for one in thumbnails if one.reason]
    reasons = card.failures or list(dict.fromkeys(missing))  # a record that failed has no image to draw
    count = len(card.pictures)
    return Shown(card, thumbnails[:count], thumbnails[count:], reasons)


def _keep(picture: Picture, image: Image, path: Path) -> str:
    """Write a picture in full, as it lies in its folder where it does; returns its address as seen from the page."""
    if picture.original:
        atomic.copy(picture.original, path)
    else:
        atomic.write_png(path, image)
    return quote(f"{path.parent.name}/{path.name}")


def _render(sources: Sources, gallery: Gallery, cards: Sequence[Shown]) -> Iterator[str]:
    templates = environment(_ROOM)
    templates.filters |= {"number": _number, "signed": lambda value: f"{value:+.3f}"}
    style, script = _palette() + style_of(_ROOM), packaged(_ROOM, "page.js")
    systems = measured_systems(sources.evals)
    return templates.get_template("page.html.j2").generate(
        style=style,
        script=script,
        hashes={"style": source_hash(style), "script": source_hash(script)},
        sources=sources,
        gallery=gallery,
        cards=cards,
        data=_data(gallery, cards),
        names=gallery.systems or [one.label for one in sources.evals],
        categories=sorted({category for one in cards for category in one.card.categories}),
        kept=sorted({one.card.kept for one in cards if one.card.kept}),
        tables=[_table(one) for one in sources.evals],
        figures=[(shows, one.label, plot(path)) for one in sources.evals for path, shows in one.figures.items()],
        columns=COLUMNS,
        systems=systems if len(sources.evals) > 1 else [],
        metrics=list(dict.fromkeys(metric for system in systems for metric in system.means)),
        charts=frontier(systems),
        colours=len(PALETTE),
        failed=sum(bool(one.reasons) for one in cards),
    )


def _table(one: EvalFolder) -> dict[str, Any]:
    """What the page says of an eval: the rows of its tables, and a line for each distance and cost."""
    sides = [("in", one.run), *([("baseline", one.baseline)] if one.baseline else [])]
    lines = [distance_line(name, side.distance) for name, side in sides if side.distance]
    lines += [cost_line(name, side.cost) for name, side in sides if side.cost]
    rows = [(row, cells(row), whisker) for row, whisker in zip(one.rows, whiskers(one.rows), strict=True)]
    return {
        "eval": one,
        "rows": [row for row in rows if row[0].category is None],
        "categories": [row for row in rows if row[0].category is not None],
        "lines": lines,
    }


def _data(gallery: Gallery, cards: Sequence[Shown]) -> dict[str, Any]:
    """What the script sorts, filters and searches by."""
    return {
        "columns": gallery.columns,
        "systems": gallery.systems,
        "cards": [
            {
                "id": one.card.id,
                "text": one.card.text,
                "categories": one.card.categories,
                "kept": one.card.kept,
                "failed": bool(one.reasons),
                "values": one.card.values,
            }
            for one in cards
        ],
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}" if value == int(value) else f"{value:.3f}"


def _palette() -> str:
    """The colours in which things are drawn on pictures, as classes with custom properties."""
    colours = (
        f".thing-{i} {{ --swatch: rgb{colour}; --swatch-ink: {ink(colour)}; }}\n" for i, colour in enumerate(PALETTE)
    )
    return "".join(colours)
