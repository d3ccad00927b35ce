"""Folders of records and of evals -> what the gallery shows of each prompt. Pictures are drawn when they are wanted."""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from PIL import Image

from realign_cli.data.images import image_path, open_image
from realign_cli.errors import RecordError
from realign_cli.evaluation.compare import categories
from realign_cli.pictures import found, is_tile_of, row_tiles
from realign_cli.runs.folder import picture_path
from realign_cli.stages.run_lengths import decode

if TYPE_CHECKING:
    from realign_cli.data.records import Entry
    from realign_cli.records import Caption, Object, Record
    from realign_cli.report.sources import EvalFolder, RecordFolder, Side, Sources

REWARD, PASSES = "caption reward", "passes"
# Pictures that stages leave of a record and the gallery shows as they are: the kind in their file name, and a title.
LEFT_BY_STAGES = {"maps": "attention maps"}
_COMPARED = 5  # records by which a folder is told to be what another one was made from
_IN_PLACE = frozenset({"caption-reward", "tag", "score", "segment"})  # stages whose records keep their images
_STRIP = "strip"
Draw = Callable[[], Image.Image]


@dataclass(frozen=True)
class Picture:
    """One picture of a prompt, and what was seen or found in it.

    `draw` raises RecordError where it cannot be drawn. `original` is the file that is the same picture, if one is.
    """

    title: str
    draw: Draw
    original: Path | None = None
    caption: Caption | None = None
    kept: bool = False
    objects: Sequence[Object] = ()


@dataclass
class Card:
    """A prompt: its pictures in the order of their making, all its tries, its numbers, and what went wrong.

    `values` has, by column, one number for each system of the gallery, None where it is not known. `remarks` are
    failures that a stage recovered from.
    """

    id: str
    text: str
    categories: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tries: list[Picture] = field(default_factory=list)
    values: dict[str, list[float | None]] = field(default_factory=dict)
    kept: str | None = None
    failures: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Gallery:
    """All prompts. `systems` are the folders whose images are compared, `columns` the numbers there are."""

    systems: list[str]
    cards: list[Card]
    columns: list[str]
    notices: list[str]


@dataclass
class _System:
    """A folder of images. `origin` is the one that its images were made from; `later` has, by id, its records after
    stages that kept the images; `prompts` its records by prompt, `ids` by id; `measured` what evals say of it.
    """

    folder: RecordFolder
    origin: _System | None = None
    later: dict[str, Record] = field(default_factory=dict)
    measured: list[Side] = field(default_factory=list)
    prompts: dict[str, list[Entry]] = field(default_factory=dict)
    ids: dict[str, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in self.folder.entries:
            self.ids[entry.record.id] = entry
            self.prompts.setdefault(entry.record.prompt_key, []).append(entry)

    @property
    def stage(self) -> str | None:
        return self.folder.account.stage if self.folder.account else None

    def record(self, entry: Entry) -> Record:
        return self.later.get(entry.record.id, entry.record)

    def numbers(self, record_id: str) -> dict[str, float]:
        """The columns of an image; of two evals that have the same one, the first counts."""
        merged: dict[str, float] = {}
        for side in reversed(self.measured):
            merged |= {name: v for name, v in side.scores.get(record_id, {}).items() if v is not None}
        return merged


def gather(sources: Sources) -> Gallery:
    """What there is of each prompt, joined over the folders by the prompt's id, in the order of the first folder."""
    systems = _systems(sources.records)
    notices = _give_measurements(systems, sources.evals)
    texts: dict[str, str] = {}
    for system in systems:
        own = {key: entries[0].record.text for key, entries in system.prompts.items()}
        others = [key for key, text in own.items() if texts.setdefault(key, text) != text]
        if others:
            told = f"{len(others)} prompts are others than in the folders before it, such as {others[0]}"
            notices.append(f"{system.folder.label}: {told}")
    cards = [_card(key, text, systems) for key, text in texts.items()]
    cards += [Card(line.partition(": ")[0], "", failures=[line]) for one in sources.records for line in one.broken]
    return Gallery([system.folder.label for system in systems], cards, _columns(cards), notices)


def _columns(cards: Sequence[Card]) -> list[str]:
    """Each column once; those that several systems have come first, the cost last."""
    known: dict[str, set[int]] = {}
    for card in cards:
        for name, values in card.values.items():
            known.setdefault(name, set()).update(i for i, value in enumerate(values) if value is not None)
    return sorted(known, key=lambda name: (name == PASSES, len(known[name]) == 1))


def _systems(folders: Sequence[RecordFolder]) -> list[_System]:
    """The folders with images of their own; what tag, score and the like wrote goes to the images that it is about."""
    systems: list[_System] = []
    for folder in folders:
        about = None
        if folder.account and folder.account.stage in _IN_PLACE:
            about = next((one for one in reversed(systems) if _same_images(one.folder, folder)), None)
        if about:
            about.later |= {entry.record.id: entry.record for entry in folder.entries}
        else:
            systems.append(_System(folder, _origin(folder, systems)))
    return systems


def _origin(folder: RecordFolder, earlier: Sequence[_System]) -> _System | None:
    """The folder whose images the strips of this one begin with; other systems may have the same ids."""
    seen: list[list[bool]] = [[] for _ in earlier]
    made = (entry for entry in folder.entries if entry.record.refine or entry.record.tries)
    for entry in islice(made, _COMPARED):
        for system, shown in zip(earlier, seen, strict=True):
            with suppress(RecordError, KeyError):  # what is not there tells nothing
                shown.append(is_tile_of(_on_strip(entry, 0), _open(system.ids[entry.record.id])))
    return next((system for system, shown in zip(earlier, seen, strict=True) if shown and all(shown)), None)


def _same_images(one: RecordFolder, other: RecordFolder) -> bool:
    """Whether the images that both folders have are the same files, byte for byte."""
    theirs = {entry.record.id: entry for entry in one.entries}
    pairs = [(entry, theirs[entry.record.id]) for entry in other.entries if entry.record.id in theirs]
    try:
        return bool(pairs) and all(
            filecmp.cmp(_path(mine), _path(same), shallow=False)
            for mine, same in pairs
            if mine.record.file_name and same.record.file_name
        )
    except (RecordError, OSError):
        return False


def _give_measurements(systems: Sequence[_System], evals: Sequence[EvalFolder]) -> list[str]:
    """Give each system what evals measured of its folder; returns what is to be said of evals of other folders.

    A folder is known by its path, or where that leads to none of them, as on another computer, by its name alone.
    """
    notices = []
    for one in evals:
        for side in filter(None, (one.run, one.baseline)):
            paths = {system.folder.path.resolve(): system for system in systems}
            source = Path(side.source).resolve()
            named = [paths[source]] if source in paths else [paths[path] for path in paths if path.name == source.name]
            if len(named) == 1:
                named[0].measured.append(side)
            elif systems:
                notices.append(f"{one.label}: it measured {side.source}, which is not among the folders shown")
    return notices


def _card(key: str, text: str, systems: Sequence[_System]) -> Card:
    """One prompt in all systems."""
    card = Card(key, text)
    records = [[system.record(entry) for entry in system.prompts.get(key, [])] for system in systems]
    every = [record for own in records for record in own]
    card.categories, card.kept = categories(every[0]), _kept(every[-1])
    chosen = {record.id for record in every if record.select}
    captions_of_origins = {
        (id(system.origin), record.id): _first_caption(record)
        for system, own in zip(systems, records, strict=True)
        for record in own
    }
    several = sum(any(record.tries for record in own) for own in records) > 1
    told: set[str] = set()  # the ids of records of which is shown how their image was made
    for number, (system, own) in enumerate(zip(systems, records, strict=True)):
        captions = []
        for place, (entry, record) in enumerate(zip(system.prompts.get(key, []), own, strict=True), 1):
            captions.append(_caption(record) or captions_of_origins.get((id(system), record.id)))
            title = f"{system.folder.label} {place}" if len(own) > 1 else system.folder.label
            kept = len(own) > 1 and record.id in chosen
            itself = Picture(title, partial(_open, entry), _path_or_none(entry), captions[-1], kept)
            coarse = system.origin.ids.get(record.id) if system.origin else None
            passed_on = system.stage == "select" and record.id in told
            before, after = ([], []) if passed_on else _around(entry, record, coarse)
            tries = () if passed_on else _tries(entry, record, coarse)
            card.tries += (replace(one, title=f"{title} {one.title}") for one in tries) if several else tries
            if record.refine or record.tries:
                told.add(record.id)
            shown = [one.objects for one in card.pictures]
            card.pictures += [*(one for one in before if not one.objects or one.objects not in shown), itself, *after]
        _put(card, REWARD, number, len(systems), [one.reward for one in captions if one])
        _put(card, PASSES, number, len(systems), [record.cost.passes for record in own if record.cost])
        measured = [system.numbers(record.id) for record in own]
        for column in dict.fromkeys(name for one in measured for name in one):
            _put(card, column, number, len(systems), [one[column] for one in measured if column in one])
    failures = dict.fromkeys(failure for record in every for failure in record.failures)  # folders pass them on
    for failure in failures:
        (card.remarks if failure.recovered else card.failures).append(f"{failure.stage}: {failure.message}")
    return card


def _put(card: Card, column: str, system: int, systems: int, values: Sequence[float]) -> None:
    """Note the mean over a system's images of a prompt, if there are any."""
    if values:
        card.values.setdefault(column, [None] * systems)[system] = fmean(values)


def _around(entry: Entry, record: Record, coarse: Entry | None) -> tuple[list[Picture], list[Picture]]:
    """What is shown before and after a record's own image: what was found, and what stages left.

    An image that was made from another comes after what was found in that.
    """
    maps = [
        Picture(title, partial(open_image, path), path)
        for kind, title in LEFT_BY_STAGES.items()
        if entry.base and (path := picture_path(entry.base, record.id, kind)).exists()
    ]
    if record.tries:
        mended = next((i for i, one in enumerate(record.tries.made) if one.objects), None)
        if mended is None:
            return maps, []
        draw = partial(_as_large_as, entry, _try(entry, record, max(0, mended - 1), coarse))
        objects = record.tries.made[mended].objects or []
        title = "found" if mended == 1 else f"found in try {mended}"
        return [_found(title, draw, objects), *maps], []
    if not record.refine:
        return [], [*([_found("found", partial(_open, entry), record.objects)] if record.objects else []), *maps]
    if not (entry.base and picture_path(entry.base, record.id, _STRIP).exists()):  # passed on by select, say
        return maps, []
    first = partial(_open, coarse) if coarse else partial(_as_large_as, entry, partial(_tile, entry, 0))
    before = [_found("found", first, record.objects)] if record.objects else []
    if record.refine.kept == "coarse" and record.refine.final:
        before.append(Picture("refined", partial(_tile, entry, 2), caption=record.refine.final))
    return [*before, *maps], []


def _tries(entry: Entry, record: Record, coarse: Entry | None) -> Iterator[Picture]:
    """Every image that was tried for a prompt, where there were several."""
    if record.tries and len(record.tries.made) > 1:
        for i, one in enumerate(record.tries.made):
            if one.caption:
                kept = i == record.tries.kept
                draw = _try(entry, record, i, coarse)
                yield Picture(f"{i + 1} {one.how}", draw, caption=one.caption, kept=kept, objects=one.objects or ())


def _try(entry: Entry, record: Record, index: int, coarse: Entry | None) -> Draw:
    """What draws a try: the first and the kept one have files of their own, the others are on the strip."""
    assert record.tries
    if index == record.tries.kept:
        return partial(_open, entry)
    if index == 0 and coarse:
        return partial(_open, coarse)
    return partial(_tile, entry, sum(one.caption is not None for one in record.tries.made[:index]))


def _tile(entry: Entry, index: int) -> Image.Image:
    """An image of which there is no file, from the strip of its record, in the shape of the record's own image."""
    tile = _on_strip(entry, index)
    width, height = _open(entry).size
    if max(width, height) < tile.width:  # its pixels were only repeated
        return tile.resize((width, height), Image.Resampling.NEAREST)
    scale = tile.width / max(width, height)
    return tile.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS)


def _on_strip(entry: Entry, index: int) -> Image.Image:
    assert entry.base
    return row_tiles(open_image(picture_path(entry.base, entry.record.id, _STRIP)), index + 1)[index]


def _as_large_as(entry: Entry, draw: Draw) -> Image.Image:
    """An image in the size of a record's own, which its masks and boxes are of."""
    return draw().resize(_open(entry).size, Image.Resampling.LANCZOS)  # as it is where it has that size


def _found(title: str, draw: Draw, objects: Sequence[Object]) -> Picture:
    return Picture(title, partial(_draw_found, draw, objects), objects=objects)


def _draw_found(draw: Draw, objects: Sequence[Object]) -> Image.Image:
    image = draw()
    masks = [decode(one.mask, image) if one.mask else None for one in objects]
    return found(image, masks, [one.boxes or [] for one in objects])


def _caption(record: Record) -> Caption | None:
    """What the captioner says of the record's own image; `caption` of a refined record is about the coarse one."""
    if record.refine:
        return record.refine.final if record.refine.kept == "final" else record.refine.coarse
    return record.caption


def _first_caption(record: Record) -> Caption | None:
    """What the captioner said of the image that a record's own was made from."""
    if record.tries:
        return record.tries.made[0].caption
    return (record.refine.coarse or record.caption) if record.refine else None


def _kept(record: Record) -> str | None:
    """Which image a record shows after all: the coarse one, the final one, or how the try that was kept was made."""
    if record.tries:
        return record.tries.made[record.tries.kept].how if record.tries.kept else "coarse"
    return record.refine.kept if record.refine else None


def _open(entry: Entry) -> Image.Image:
    return open_image(_path(entry))


def _path(entry: Entry) -> Path:
    return image_path(entry.record, entry.base)


def _path_or_none(entry: Entry) -> Path | None:
    try:
        return _path(entry)
    except RecordError:
        return None
