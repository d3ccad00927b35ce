"""Training data: prompts, and images where they come with them, from whatever file or dataset holds captions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realign_cli.errors import UsageError
from realign_cli.plumbing.source import METADATA, image_path, open_image, read_records

if TYPE_CHECKING:
    from PIL.Image import Image

KEYS = ("prompt", "text", "caption")
COCO = "coco"
_COCO_ON_THE_HUB = "yerevann/coco-karpathy"  # parquet, with the 2014 captions
_HUB_KEYS = (*KEYS, "captions", "sentences")


@dataclass(frozen=True)
class Captions:
    """Prompts to train on, and real images with their captions, where there are any; `note` says what was read."""

    prompts: Sequence[str]
    note: str
    examples: Sequence[tuple[str, Callable[[], Image]]] = ()


def read_captions(data: str) -> Captions:
    """Read `data`: a .txt, .jsonl or COCO .json file, a folder of records, "coco", or a hub id.

    Raises:
        UsageError: no such data, or no captions in it, with the keys that were found.
    """
    path = Path(data)
    if path.is_dir():
        return _folder(path)
    if path.suffix in (".txt", ".jsonl", ".json"):
        return _file(path)
    if data == COCO:
        return _hub(_COCO_ON_THE_HUB)
    if path.exists():
        raise UsageError(f"--data {data}: give a .txt, .jsonl or COCO .json file, or a folder with {METADATA}")
    if data.count("/") == 1:
        return _hub(data)
    raise UsageError(f"--data {data}: no such file or folder; or give 'coco', 'shapes', or a dataset of the hub")


def _file(path: Path) -> Captions:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"--data {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"--data {path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    if path.suffix == ".txt":
        return _captions(text.split("\n"), f"{path}: one prompt a line")
    if path.suffix == ".json":
        return _coco(path, text)
    rows = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    key, prompts = "", []
    for number, line in rows:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}:{number}: not JSON ({error})") from None
        key = key or _key(row if isinstance(row, dict) else {}, KEYS, f"{path}:{number}")
        if not isinstance(row, dict) or not isinstance(row.get(key), str):
            raise UsageError(f"{path}:{number}: no '{key}' with a string in it, which line {rows[0][0]} has")
        prompts.append(row[key])
    return _captions(prompts, f"{path}: key '{key}'")


def _coco(path: Path, text: str) -> Captions:
    """The official annotations: {"annotations": [{"caption": ...}, ...]}."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--data {path}: not JSON ({error})") from None
    notes = data.get("annotations") if isinstance(data, dict) else None
    if not isinstance(notes, list) or not all(isinstance(x, dict) and isinstance(x.get("caption"), str) for x in notes):
        found = ", ".join(sorted(data)) if isinstance(data, dict) else f"a {type(data).__name__}"
        raise UsageError(f"--data {path}: no 'annotations' with a 'caption' each, as COCO has them; found: {found}")
    return _captions([note["caption"] for note in notes], f"{path}: COCO captions")


def _folder(path: Path) -> Captions:
    entries = list(read_records(str(path)))
    with_images = all(entry.record.file_name for entry in entries)

    def opener(index: int) -> Callable[[], Image]:
        return lambda: open_image(image_path(entries[index].record, entries[index].base))

    prompts = [entry.record.text for entry in entries]
    if not with_images:
        return Captions(prompts, f"{path}: key 'text'")
    return Captions(prompts, f"{path}: key 'text', with images", [(p, opener(i)) for i, p in enumerate(prompts)])


def _hub(name: str) -> Captions:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split="train")
    except Exception as error:  # datasets raises whatever its many backends raise
        reason = str(error).strip().split("\n")[0]
        raise UsageError(
            f"--data {name}: the hub gives no such dataset ({reason}); give a file of captions, such as COCO's "
            "captions_train2014.json, or name a mirror of the hub with HF_ENDPOINT, or take --data shapes --preset tiny"
        ) from None
    key = _key(dict.fromkeys(rows.column_names, ""), _HUB_KEYS, f"--data {name}")
    column: Iterable[Any] = rows[key]
    return _captions(_flat(column), f"{name}: column '{key}'")


def _key(row: Mapping[str, Any], keys: Sequence[str], place: str) -> str:
    for key in keys:
        if isinstance(row.get(key), str):
            return key
    found = ", ".join(map(str, row)) or "none"
    raise UsageError(f"{place}: none of {', '.join(keys)} with a string; keys found: {found}")


def _flat(column: Iterable[Any]) -> Iterator[str]:
    """Each caption of a column that holds one, or a list of them, in a row."""
    for cell in column:
        yield from [cell] if isinstance(cell, str) else map(str, cell)


def _captions(texts: Iterable[str], note: str) -> Captions:
    prompts = [stripped for text in texts if (stripped := text.strip())]
    if not prompts:
        raise UsageError(f"--data {note}: no captions")
    return Captions(prompts, note)
