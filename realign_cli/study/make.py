"""Folders of records of the same prompts -> a study: images without names, pages for raters, the private account."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from realign_cli.data.images import image_path, open_image
from realign_cli.data.records import Entry, read_tolerantly
from realign_cli.errors import RecordError, UsageError
from realign_cli.files import atomic
from realign_cli.study import drawings
from realign_cli.study.design import FILES, IMAGES, QUESTIONS, SITE, Form, Item, Rater, Study, plan
from realign_cli.study.page import render

if TYPE_CHECKING:
    from PIL.Image import Image

    from realign_cli.console import Advance

_SMALL = 128  # pixels of the longer side, up to which pixels are shown as squares
_MOST = 9  # images at once: each has a key
_TOKEN = 10  # bytes of chance in a link
_NEVER = (0, 0)  # when every public file was made: times of files tell what was written together
_INDEX = "<!DOCTYPE html><title>Study</title><p>Please use the link that you were given.\n"


@dataclass
class Made:
    """A study, what was noticed while it was made, and the records and images that could not be used."""

    study: Study
    notices: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """What a study shall be: `count` prompts for each rater, None for all."""

    questions: Sequence[str]
    form: Form
    raters: int
    count: int | None
    seed: int


def make(folders: Mapping[str, Path], out: Path, request: Request, *, advance: Advance) -> Made:
    """Write the study of these systems into the new folder `out`; `advance` is told of every prompt.

    In the form "all" each prompt is one item; in "pairwise" the first system meets each other one. Images are written
    anew from their pixels, under names made of these, so that neither names nor metadata say where they come from.

    Raises:
        UsageError: an unknown question, folders that cannot be read or have no prompt in common, too many systems, or
            `out` is in use.
        RealignError: it cannot be written.
    """
    for name in request.questions:
        if name not in QUESTIONS:
            raise UsageError(f"--questions {name}: not a question; there are: {', '.join(QUESTIONS)}")
    if request.form == "all" and len(folders) > _MOST:
        raise UsageError(f"{len(folders)} systems: at most {_MOST} can be shown at once; use --form pairwise")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: in use; give --out a new folder, answers may belong to what is there")
    staging = atomic.temporary(out)
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    try:
        with atomic.report_os_errors(out):
            made = _write(folders, staging, request, advance)
            os.replace(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return made


def _write(folders: Mapping[str, Path], out: Path, request: Request, advance: Advance) -> Made:
    store = _Images(out / SITE / IMAGES)
    made = _Items(store)
    made.add_all(folders, request.form, advance)
    shown = len(folders) if request.form == "all" else 2
    checks = [
        Item(text=text, images=images, right=images[0])
        for text, images in ((text, store.add_all(drawn)) for text, drawn in drawings.checks(shown, request.seed))
    ]
    text, drawn = drawings.example(shown)
    prompts = len({item.prompt for item in made.items})
    count = min(request.count or prompts, prompts)
    study = Study(
        form=request.form,
        questions=tuple(request.questions),
        systems=tuple(folders),
        seed=request.seed,
        squares=made.longest <= _SMALL,
        example=Item(text=text, images=store.add_all(drawn)),
        items=(*made.items, *checks),
        raters=tuple(
            Rater(token=secrets.token_hex(_TOKEN), trials=trials)
            for trials in plan(made.items, checks, request.raters, count, request.seed)
        ),
    )
    for rater in study.raters:
        atomic.write_text(out / SITE / f"{rater.token}.html", render(study, rater, served=False))
    atomic.write_text(out / SITE / "index.html", _INDEX)  # or a host may list the folder, and with it all links
    for path in (out / SITE).rglob("*"):
        os.utime(path, _NEVER)
    (out / FILES).mkdir()
    study.write(out)
    return Made(study, made.notices, made.failures)


class _Images:
    """A folder of images whose names are made of their pixels, so that equal ones are one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, image: Image) -> str:
        """Write an image, unless it is there; returns its name."""
        name = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:20] + ".png"
        if not (self._folder / name).exists():
            atomic.write_png(self._folder / name, image)
        return name

    def add_all(self, images: Iterable[Image]) -> tuple[str, ...]:
        return tuple(map(self.add, images))


class _Items:
    """Gathers items: the prompts that all systems have an image of, where these are not all the same."""

    def __init__(self, store: _Images) -> None:
        self._store = store
        self.items: list[Item] = []
        self.notices: list[str] = []
        self.failures: list[str] = []
        self.longest = 0  # side of an image, in pixels

    def add_all(self, folders: Mapping[str, Path], form: Form, advance: Advance) -> None:
        """Raises UsageError where nothing is left to ask, or two systems have other texts under one id."""
        systems = {name: self._first_of_each(folder) for name, folder in folders.items()}
        first, *others = systems.values()
        shared = [prompt for prompt in first if all(prompt in other for other in others)]
        some = set[str]().union(*systems.values()) - set(shared)
        if some:
            self.notices.append(f"{len(some)} prompts are left out, of which not all systems have an image")
        sizes: dict[str, set[tuple[int, int]]] = {name: set() for name in systems}
        same = 0
        for prompt in shared:
            entries = {name: of_prompt[prompt] for name, of_prompt in systems.items()}
            names = self._copy(entries, sizes)
            advance(1)
            if names is None:
                continue
            text = next(iter(entries.values())).record.text
            contests = [names] if form == "all" else [_pair(names, other) for other in list(names)[1:]]
            for contest in contests:
                if len(set(contest.values())) < 2:
                    same += 1
                else:
                    self.items.append(
                        Item(prompt=prompt, text=text, systems=tuple(contest), images=tuple(contest.values()))
                    )
        if same:
            self.notices.append(f"{same} items are left out, in which all images are the same")
        if len(set(map(frozenset, sizes.values()))) > 1:
            told = ", ".join(f"{name} {'/'.join(sorted(f'{w} x {h}' for w, h in own))}" for name, own in sizes.items())
            self.notices.append(f"images of other sizes, by which raters may tell systems apart: {told}")
        if not self.items:
            raise UsageError(f"{', '.join(systems)}: no prompt, by its id, with readable images of all that differ")

    def _first_of_each(self, folder: Path) -> dict[str, Entry]:
        """The first record with an image of each prompt, by its id."""
        found: dict[str, Entry] = {}
        for one in read_tolerantly(folder):
            if not isinstance(one, Entry):
                self.failures.append(str(one))
            elif one.record.file_name:
                found.setdefault(one.record.prompt_key, one)
        return found

    def _copy(self, entries: Mapping[str, Entry], sizes: Mapping[str, set[tuple[int, int]]]) -> dict[str, str] | None:
        """The names of the images of a prompt by system; None where one of them cannot be read."""
        texts = {entry.record.text: entry.place for entry in entries.values()}
        if len(texts) > 1:
            one, other = list(texts.values())[:2]
            raise UsageError(f"{one} and {other}: one id and two texts; give folders of the same prompts")
        images = {}
        for name, entry in entries.items():
            try:
                images[name] = open_image(image_path(entry.record, entry.base))
            except RecordError as error:
                self.failures.append(f"{entry.place}: {error}")
                return None
        for name, image in images.items():
            sizes[name].add(image.size)
            self.longest = max(self.longest, *image.size)
        return {name: self._store.add(image) for name, image in images.items()}


def _pair(names: Mapping[str, str], other: str) -> dict[str, str]:
    """The first system and another one, with their images."""
    first = next(iter(names))
    return {first: names[first], other: names[other]}
