"""Other programs' folders of images: plain ones come in, those of GenEval and T2I-CompBench go out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from realign_cli.errors import RecordError, UsageError
from realign_cli.plumbing import atomic
from realign_cli.plumbing.console import Summary
from realign_cli.plumbing.folder import RunFolder
from realign_cli.plumbing.lock import held
from realign_cli.plumbing.source import Entry, image_files, image_path, open_image, read_prompts, read_records

if TYPE_CHECKING:
    from PIL.Image import Image

_SEED = 42  # what a record says where nobody knows the seed
_LONGEST_NAME = 200  # bytes of a prompt in a file's name; file systems take 255 in all


def import_images(source: Path, prompts: Path, out: Path) -> Summary:
    """Join the images of a folder with the prompts of a file into the record folder `out`.

    Raises:
        UsageError: no images; or names do not tell which prompt is whose and the numbers differ.
    """
    began = time.monotonic()
    files = image_files(source) if source.is_dir() else []
    if not files:
        raise UsageError(f"{source}: no folder of images; --in takes one")
    entries = list(read_prompts(prompts, _SEED))
    pairs, complaints = _joined(
        entries, files, f"{len(entries)} prompts in {prompts} and {len(files)} images in {source}"
    )
    ids = []
    with held(out):
        folder = RunFolder(out, {"command": "import", "in": str(source), "prompts": str(prompts)})
        for entry, file in pairs:
            try:
                open_image(file)
            except RecordError as error:
                complaints.append(str(error))
                continue
            atomic.copy(file, out / file.name)
            folder.add(entry.record.with_(file_name=file.name))
            ids.append(entry.record.id)
        folder.complete(ids)
    return _summary("import", out, began, len(ids), complaints)


def export_geneval(source: str, out: Path) -> Summary:
    """A folder 00000, 00001, ... for each prompt: metadata.jsonl with what to look for, and samples/00000.png, ..."""
    began = time.monotonic()
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
    """samples/PROMPT_000000.png, ...: the prompt ends at the first "_", and the number orders the images."""
    began = time.monotonic()
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


def _joined(entries: Sequence[Entry], files: Sequence[Path], counts: str) -> tuple[list[tuple[Entry, Path]], list[str]]:
    """Prompts with their images, by `file_name` or id; by order where no image bears such a name."""
    named = {file.name: file for file in files} | {file.stem: file for file in files}
    pairs = [(entry, named[name]) for entry in entries if (name := entry.record.file_name or entry.record.id) in named]
    if not pairs:
        if len(entries) != len(files):
            raise UsageError(f"{counts}: give each prompt an 'id' or a 'file_name' that names its image")
        return list(zip(entries, files, strict=True)), []
    with_image, with_prompt = {entry.record.id for entry, _ in pairs}, {file for _, file in pairs}
    complaints = [f"{e.place}: no image for prompt {e.record.id!r}" for e in entries if e.record.id not in with_image]
    complaints += [f"{file}: no prompt for this image" for file in files if file not in with_prompt]
    return pairs, complaints


def _readable(source: str, out: Path, complaints: list[str]) -> Iterator[tuple[Entry, Image]]:
    """Records with their images, and `out` is held where there is one; what cannot be read becomes a complaint."""
    images = _images(source, complaints)
    for first in images:
        with held(out):
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
