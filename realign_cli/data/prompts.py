"""Prompts from a file, as lines of text, JSON lines or COCO's captions: the one reader of every command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from realign_cli.data.records import Entry, read_text, unique
from realign_cli.errors import UsageError
from realign_cli.records import ID, Record, parse_line

KEYS = ("prompt", "text", "caption")
SUFFIXES = (".txt", ".jsonl", ".ndjson", ".json")
_OBJECT = re.compile(r'\s*\{\s*"')
# What a line of a prompt file may say of its image; the keys of the stages are theirs to set.
_STAGE_KEYS = frozenset(Record.model_fields) - {
    *("id", "seed", "prompt_id", "category", "pair", "file_name", "rewritten")
}


@dataclass(frozen=True)
class Prompt:
    """A prompt, where it was read, and the other keys of its JSON object."""

    text: str
    place: str
    keys: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a file, at least one, none of them empty; `note` says what was read."""

    prompts: Sequence[Prompt]
    note: str


def read_prompt_file(path: Path) -> PromptFile:
    """Read one prompt a line from a .txt file, JSON objects with `prompt`, `text` or `caption` from any other.

    A .jsonl or .ndjson file has an object in each line, a .json file too unless it is COCO's. A name without a suffix,
    such as that of a pipe, leaves it to the content which of them it is.

    Raises:
        UsageError: no such file, another kind of file, no prompt in it, or a line without a prompt.
    """
    suffix = path.suffix.lower()
    if suffix not in ("", *SUFFIXES):
        raise UsageError(f"{path}: prompts are not read from '{suffix}'; give a .txt, .jsonl or COCO .json file")
    text = read_text(path)
    is_json = bool(_OBJECT.match(text))
    if suffix == ".txt" and is_json:
        raise UsageError(f"{path}: a JSON object in a text file; name the file .jsonl")
    if suffix == ".txt" or not (suffix or is_json):
        found = PromptFile([Prompt(line, place) for place, line in _lines(path, text)], f"{path}: one prompt a line")
    elif suffix in (".jsonl", ".ndjson"):
        found = _json_lines(path, text)
    else:
        found = _json(path, text)
    if not found.prompts:
        raise UsageError(f"{path}: no prompts in this file; write one prompt a line")
    return found


def read_prompts(path: Path, seed: int | None = None) -> Iterator[Entry]:
    """Records without images from a prompt file.

    Ids are those of the JSON objects, otherwise the number of the prompt, from 000000. Other keys of an object are
    kept, but for those that stages set. `seed` is for those that name none; without it, they go on naming none.

    Raises:
        UsageError: as `read_prompt_file`, or an id that occurs twice or cannot be one.
    """
    return as_entries(read_prompt_file(path).prompts, seed)


def as_entries(prompts: Sequence[Prompt], seed: int | None) -> Iterator[Entry]:
    """As `read_prompts`, of prompts that have been read."""
    return unique(_entry(prompt, number, seed) for number, prompt in enumerate(prompts))


def with_draws(prompts: Sequence[Entry], count: int) -> Iterator[Entry]:
    """`count` records of each prompt, side by side: the first has the prompt's id, the others 'id-1', 'id-2', ...

    Noise depends on a record's id, so that each of them has its own, whatever `count` is.

    Raises:
        UsageError: a made id is another prompt's own, or too long.
    """
    if count == 1:
        yield from prompts
        return
    own = {entry.record.id: entry.place for entry in prompts}
    for entry in prompts:
        given = entry.record
        for draw in range(count):
            made = f"{given.id}-{draw}" if draw else given.id
            if draw and made in own:
                raise UsageError(
                    f"{own[made]}: id {made!r} is that of draw {draw} of {given.id!r} too; give the prompt another id"
                )
            if not re.fullmatch(ID, made):
                raise UsageError(f"{entry.place}: id {given.id!r} leaves no room for '-{draw}'; give a shorter one")
            yield Entry(given.replace(id=made, prompt_id=given.prompt_key), entry.place)


def _entry(prompt: Prompt, number: int, seed: int | None) -> Entry:
    record: dict[str, Any] = {"text": prompt.text, "id": f"{number:06d}"} | ({} if seed is None else {"seed": seed})
    record |= {key: value for key, value in prompt.keys.items() if key not in _STAGE_KEYS}
    for key in ("id", "prompt_id"):
        if type(record.get(key)) is int:  # as in COCO
            record[key] = str(record[key])
    return Entry(parse_line(json.dumps(record), prompt.place), prompt.place)


def _lines(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """The lines that are not empty, each with its place; only a line feed ends one."""
    return ((f"{path}:{number}", line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _json_lines(path: Path, text: str) -> PromptFile:
    return _objects(path, ((place, _parsed(line, place)) for place, line in _lines(path, text)))


def _json(path: Path, text: str) -> PromptFile:
    """COCO's {"annotations": [{"caption": ...}, ...]}, else JSON lines."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return _json_lines(path, text)
    if isinstance(data, dict) and any(isinstance(data.get(key), str) for key in KEYS):
        return _objects(path, [(f"{path}:1", data)])
    notes = data.get("annotations") if isinstance(data, dict) else None
    if not isinstance(notes, list) or not all(isinstance(x, dict) and isinstance(x.get("caption"), str) for x in notes):
        found = ", ".join(sorted(data)) if isinstance(data, dict) else f"a {type(data).__name__}"
        raise UsageError(f"{path}: no 'annotations' with a 'caption' each, as COCO has them; found: {found}")
    captions = [(f"{path}: annotation {number}", note) for number, note in enumerate(notes) if note["caption"].strip()]
    empty = len(notes) - len(captions)
    note = f"{path}: COCO captions" + (f", without {empty} empty ones" if empty else "")
    return PromptFile(_objects(path, captions).prompts, note)


def _objects(path: Path, rows: Iterator[tuple[str, Any]] | Sequence[tuple[str, Any]]) -> PromptFile:
    prompts, used = [], []
    for place, row in rows:
        key = _key(row, place)
        used += [key] if key not in used else []
        others = {name: value for name, value in row.items() if name not in KEYS}
        prompts.append(Prompt(row[key].strip(), place, others))
    return PromptFile(prompts, f"{path}: key{'s' * (len(used) > 1)} {', '.join(map(repr, used))}")


def _key(row: Any, place: str) -> str:
    """The first key that holds a prompt."""
    keys = [key for key in KEYS if isinstance(row, dict) and isinstance(row.get(key), str)]
    if not keys:
        found = ", ".join(row) if isinstance(row, dict) else f"a {type(row).__name__}"
        raise UsageError(
            f"{place}: no 'prompt', 'text' or 'caption' with a string in it; keys found: {found or 'none'}"
        )
    filled = [key for key in keys if row[key].strip()]
    if not filled:
        raise UsageError(f"{place}: '{keys[0]}' is empty; write a prompt, or remove the line")
    try:
        row[filled[0]].encode()
    except UnicodeEncodeError:
        raise UsageError(f"{place}: '{filled[0]}' holds half a character (a lone surrogate); repair the line") from None
    return filled[0]


def _parsed(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: not JSON ({error})") from None
