"""Other programs' folders of images: plain ones come in, those of GenEval and T2I-CompBench go out."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from realign_cli.console import Summary, console, plain
from realign_cli.data.images import image_files, image_path, natural, open_image
from realign_cli.data.prompts import Prompt, as_entries, read_prompt_file
from realign_cli.data.records import Entry, read_records
from realign_cli.errors import RecordError, UsageError
from realign_cli.files import atomic
from realign_cli.runs.folder import RunFolder
from realign_cli.runs.lock import folder_lock

if TYPE_CHECKING:
    from PIL.Image import Image

_SEED = 42  # what a record says where nobody knows the seed
_LONGEST_NAME = 200  # bytes of a prompt in a file's name; file systems take 255 in all


def import_images(source: Path, prompts: Path, out: Path, *, quiet: bool = False) -> Summary:
    """Join the images of a folder with the prompts of a file into the record folder `out`.

    Raises:
        UsageError: no images, or `paired` cannot tell which prompt is whose.
    """
    began = time.monotonic()
    files = image_files(source) if source.is_dir() else []
    if not files:
        raise UsageError(f"{source}: no folder of images; --in takes one")
    given = read_prompt_file(prompts).prompts
    entries = list(as_entries(given, _SEED))
    joined = paired(given, files, f"{len(given)} prompts in {prompts} and {len(files)} images in {source}")
    if not quiet:
        console.print(plain(f"images and prompts paired by {joined.rule}"), soft_wrap=True)
    complaints = list(joined.complaints)
    ids = []
    settings = {"command": "import", "in": str(source), "prompts": str(prompts), "paired by": joined.rule}
    with RunFolder.open(out, settings) as folder:
        for index, file in joined.pairs:
            record = entries[index].record
            try:
                open_image(file)
            except RecordError as error:
                complaints.append(str(error))
                continue
            atomic.copy(file, out / file.name)
            folder.add(record.replace(file_name=file.name))
            ids.append(record.id)
        folder.complete(ids)
    return _summary("import", out, began, len(ids), complaints)


def export_geneval(source: str, out: Path) -> Summary:
    """A folder 00000, 00001, ... for each prompt: metadata.jsonl with what to look for, and samples/00000.png, ...

    Raises:
        UsageError: `out` is in use.
    """
    began = time.monotonic()
    _require_unused(out)
    places: dict[str, tuple[int, int]] = {}  # prompt -> folder, images so far
    complaints: list[str] = []
    made = 0
    for entry, image in _readable(source, out, complaints):
        record = entry.record
        number, count = places.get(record.text, (len(places), 0))
        folder = out / f"{number:05d}"
        extra = record.model_extra or {}
        if not {"tag", "include"} <= extra.keys():
            complaints.append(f"{entry.place}: no 'tag' and 'include', by which GenEval judges; see --help")
            continue
        metadata = {key: extra[key] for key in ("tag", "include", "exclude") if key in extra} | {"prompt": record.text}
        atomic.write_text(folder / "metadata.jsonl", json.dumps(metadata) + "\n")
        atomic.write_png(folder / "samples" / f"{count:05d}.png", image)
        places[record.text] = number, count + 1
        made += 1
    return _summary("export", out, began, made, complaints)


def export_t2i_compbench(source: str, out: Path) -> Summary:
    """samples/PROMPT_000000.png, ...: the prompt ends at the first "_", and the number orders the images.

    Raises:
        UsageError: `out` is in use.
    """
    began = time.monotonic()
    _require_unused(out)
    complaints: list[str] = []
    made = 0
    for entry, image in _readable(source, out, complaints):
        text = entry.record.text
        if "_" in text or "/" in text or not text.isprintable() or len(text.encode()) > _LONGEST_NAME:
            complaints.append(f"{entry.place}: the prompt cannot be the name of a file, as T2I-CompBench wants it")
            continue
        atomic.write_png(out / "samples" / f"{text}_{made:06d}.png", image)
        made += 1
    return _summary("export", out, began, made, complaints)


@dataclass(frozen=True)
class Pairing:
    """Which image, by its path, is whose, by the prompt's index; by which rule; and what was left alone."""

    rule: str
    pairs: Sequence[tuple[int, Path]]
    complaints: Sequence[str] = ()


def paired(prompts: Sequence[Prompt], files: Sequence[Path], counts: str) -> Pairing:
    """Pair prompts with images by one rule for all: by the names that the prompts give, by order if they give none.

    Ids are no names where none is a number, no image bears one, and the images are numbered from 0 or 1. `files` are in
    natural order, `counts` says for errors how many there are of both.

    Raises:
        UsageError: some prompts give names and some do not; names that no image bears or that fit several; prompts
            and images both left over; or no names and other numbers of both.
    """
    for key in ("file_name", "id"):
        names = [prompt.keys.get(key) for prompt in prompts]
        without = [prompt.place for prompt, name in zip(prompts, names, strict=True) if name is None]
        if not without:
            return _by_name(prompts, [str(name) for name in names], key, files, counts)
        if len(without) < len(prompts):
            raise UsageError(f"{without[0]}: no '{key}', which other prompts have; give it to all or to none")
    return _by_order(files, counts, len(prompts))


def _by_order(files: Sequence[Path], counts: str, prompts: int) -> Pairing:
    if prompts != len(files):
        raise UsageError(f"{counts}: give each prompt an 'id' or a 'file_name' that names its image")
    places: dict[tuple[str | int, ...], Path] = {}
    for file in files:
        other = places.setdefault(tuple(natural(file.stem)), file)
        if other is not file:
            raise UsageError(
                f"{counts}: {other.name} and {file.name} have one place in order; name images in the prompts"
            )
    return Pairing(f"order: {files[0].name} is the first, {files[-1].name} the last", list(enumerate(files)))


# What of a prompt's name and of an image's must be equal; the first rule is taken by which most prompts find an image.
_BY_NAME: Mapping[str, Sequence[tuple[str, Callable[[str], str], Callable[[Path], str]]]] = {
    "file_name": [
        ("file name", lambda name: str(PurePosixPath(name)), lambda file: file.name),
        ("file name without its folder", lambda name: PureWindowsPath(name).name, lambda file: file.name),
        ("file name without folder and suffix", lambda name: PureWindowsPath(name).stem, lambda file: file.stem),
    ],
    "id": [
        ("id, which is the image's name without its suffix", str, lambda file: file.stem),
        ("id, which is the image's name", str, lambda file: file.name),
        ("id, which is the image's number", lambda name: _number(name), lambda file: _number(file.stem)),
    ],
}


def _by_name(prompts: Sequence[Prompt], names: Sequence[str], key: str, files: Sequence[Path], counts: str) -> Pairing:
    def normal(name: str) -> str:
        return unicodedata.normalize("NFC", name)  # as macOS and others write the same letters differently

    def found(of_name: Callable[[str], str], of_file: Callable[[Path], str]) -> list[list[Path]]:
        by_name: dict[str, list[Path]] = {}
        for file in files:
            by_name.setdefault(normal(of_file(file)), []).append(file)
        return [by_name.get(normal(of_name(name)), []) for name in names]

    rules = {rule: found(of_name, of_file) for rule, of_name, of_file in _BY_NAME[key]}
    rule, images = max(rules.items(), key=lambda item: sum(map(bool, item[1])))
    if key == "id" and not any(images) and _numbered(files) and not any(map(str.isdecimal, names)):
        return _by_order(files, counts, len(names))  # ids such as those of a set of prompts, which name no image
    owner: dict[Path, str] = {}
    for prompt, name, own in zip(prompts, names, images, strict=True):
        if len(own) > 1:
            raise UsageError(f"{prompt.place}: {key} {name!r} fits {own[0].name} and {own[1].name}; name one of them")
        if own and normal(owner.setdefault(own[0], name)) != normal(name):
            raise UsageError(f"{prompt.place}: {key} {name!r} fits {own[0].name}, and so does {owner[own[0]]!r}")
    missing = [index for index, own in enumerate(images) if not own]
    stray = [file for file in files if file not in owner]
    if missing and stray:
        raise UsageError(
            f"{counts}: by {rule}, {len(missing)} prompts have no image, such as {key} {names[missing[0]]!r}, and "
            f"{len(stray)} images no prompt, such as {stray[0].name}; correct the names, or leave out each 'file_name' "
            "and 'id' to pair by order"
        )
    complaints = [f"{prompts[index].place}: no image for prompt {names[index]!r}" for index in missing]
    complaints += [f"{file}: no prompt for this image" for file in stray]
    return Pairing(rule, [(index, own[0]) for index, own in enumerate(images) if own], complaints)


def _number(name: str) -> str:
    return str(int(name)) if name.isdecimal() else name


def _numbered(files: Sequence[Path]) -> bool:
    """Whether the names are the numbers from 0 or 1 on, and nothing else."""
    numbers = [_number(file.stem) for file in files]
    return any(numbers == list(map(str, range(first, first + len(files)))) for first in (0, 1))


def _require_unused(out: Path) -> None:
    """Refuse a folder whose files would be judged among the new ones; hidden files, such as locks, are not.

    Raises:
        UsageError: naming one of them.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: not a folder; give --out a new one")
    files = [path.name for path in out.glob("*") if not path.name.startswith(".")]
    if files:
        raise UsageError(f"{out}: not empty ({min(files)}); what is there would be judged too: give --out a new folder")


def _readable(source: str, out: Path, complaints: list[str]) -> Iterator[tuple[Entry, Image]]:
    """Records with their images, and `out` is held where there is one; what cannot be read becomes a complaint."""
    images = _images(source, complaints)
    for first in images:
        with folder_lock(out):
            yield first
            yield from images


def _images(source: str, complaints: list[str]) -> Iterator[tuple[Entry, Image]]:
    for entry in read_records(source):
        try:
            yield entry, open_image(image_path(entry.record, entry.base))
        except RecordError as error:
            complaints.append(f"{entry.place}: {error}")


def _summary(command: str, out: Path, began: float, made: int, complaints: list[str]) -> Summary:
    return Summary(
        command,
        records=made + len(complaints),
        failed=len(complaints),
        seconds=time.monotonic() - began,
        out=str(out),
        failures=complaints,
    )
