"""Training data: prompts, and images where they come with them, from whatever file or dataset holds captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from realign_cli.data.images import image_path, open_image
from realign_cli.data.prompts import KEYS, SUFFIXES, read_prompt_file
from realign_cli.data.records import Entry, read_records
from realign_cli.errors import UsageError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

COCO = "coco"
_COCO_ON_THE_HUB = "yerevann/coco-karpathy"  # parquet, with the 2014 captions
_HUB_KEYS = (*KEYS, "captions", "sentences")


class Example(NamedTuple):
    """A prompt with a real image, which is read when it is called for, and where both are named."""

    prompt: str
    image: Callable[[], Image]
    place: str


@dataclass(frozen=True)
class Captions:
    """Prompts to train on, and real images with their captions, where there are any; `note` says what was read."""

    prompts: Sequence[str]
    note: str
    examples: Sequence[Example] = ()


def read_captions(data: str) -> Captions:
    """Read `data`: a file of prompts, a folder of records, "coco", or a hub id.

    Raises:
        UsageError: no such data, or no captions in it, with the keys that were found.
    """
    path = Path(data)
    if path.is_dir():
        return _folder(path)
    if path.exists() or path.suffix.lower() in SUFFIXES:
        return _file(path)
    if data == COCO:
        return _hub(_COCO_ON_THE_HUB)
    if data.count("/") == 1:
        return _hub(data)
    raise UsageError(f"--data {data}: no such file or folder; or give 'coco', 'shapes', or a dataset of the hub")


def _file(path: Path) -> Captions:
    file = read_prompt_file(path)
    return Captions([prompt.text for prompt in file.prompts], file.note)


def _folder(path: Path) -> Captions:
    entries = list(read_records(str(path)))
    with_images = all(entry.record.file_name for entry in entries)

    def example(entry: Entry) -> Example:
        return Example(entry.record.text, lambda: open_image(image_path(entry.record, entry.base)), entry.place)

    prompts = [entry.record.text for entry in entries]
    if not with_images:
        return Captions(prompts, f"{path}: key 'text'")
    return Captions(prompts, f"{path}: key 'text', with images", list(map(example, entries)))


def _hub(name: str) -> Captions:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split="train")
    except Exception as error:  # datasets raises whatever its many backends raise
        raise UsageError(
            f"--data {name}: the hub gives no such dataset ({first_line(error)}); give a file of captions, such as "
            "COCO's captions_train2014.json, or name a mirror of the hub with HF_ENDPOINT, or take --data shapes "
            "--preset tiny"
        ) from None
    key = next((key for key in _HUB_KEYS if key in rows.column_names), None)
    if key is None:
        found = ", ".join(rows.column_names)
        raise UsageError(f"--data {name}: no column {', '.join(_HUB_KEYS)}; columns found: {found}")
    column: Iterable[Any] = rows[key]
    prompts = [stripped for text in _flat(column) if (stripped := text.strip())]
    if not prompts:
        raise UsageError(f"--data {name}: no captions in column '{key}'")
    return Captions(prompts, f"{name}: column '{key}'")


def _flat(column: Iterable[Any]) -> Iterator[str]:
    """Each caption of a column that holds one, or a list of them, in a row."""
    for cell in column:
        yield from [cell] if isinstance(cell, str) else map(str, cell)
