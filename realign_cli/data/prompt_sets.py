"""The prompt sets of the evaluation: the text of a published file -> records without images."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence

from realign_cli.errors import UsageError
from realign_cli.records import Pair, Record

_COCO_COUNT, _COCO_SEED = 5000, 42
_CC500_COLOURS = 446  # the first lines bind two colours to two objects; the others are of other kinds


def coco(text: str) -> list[Record]:
    """5,000 captions of COCO 2014 val, one of each of as many images, drawn at a fixed seed; `captions_val2014.json`.

    Raises:
        UsageError: the file holds no captions of that many images.
    """
    try:
        rows = json.loads(text)["annotations"]
        captions: dict[int, list[tuple[int, str]]] = {}
        for row in rows:
            captions.setdefault(row["image_id"], []).append((row["id"], " ".join(row["caption"].split())))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError("not the captions of COCO: give captions_val2014.json, or the .zip that holds it") from None
    if len(captions) < _COCO_COUNT:
        raise UsageError(
            f"captions of {len(captions)} images, and {_COCO_COUNT:,} are drawn: give captions_val2014.json"
        )
    rng = random.Random(_COCO_SEED)
    chosen = ((image, rng.choice(sorted(captions[image]))) for image in _drawn(captions, rng))
    return [Record(id=f"coco-{image:012d}", text=caption) for image, (_, caption) in chosen]


def coco_images(images: Iterable[int]) -> list[int]:
    """Of the numbers of all images of COCO 2014 val, those that `coco` takes a caption of, in the same order."""
    return _drawn(images, random.Random(_COCO_SEED))


def abc6k(text: str) -> list[Record]:
    """ABC-6K: lines in pairs, a caption and the same with two colours swapped; each record names the other as its pair.

    Where the swap changed nothing (two colours that are one) the records name no pair.

    Raises:
        UsageError: an odd number of lines.
    """
    lines = _lines(text)
    if len(lines) % 2:
        raise UsageError(f"{len(lines)} lines, and ABC-6K is made of pairs of lines")
    return [record for number in range(len(lines) // 2) for record in _pair(number, lines[2 * number : 2 * number + 2])]


def cc500(text: str, *, everything: bool = False) -> list[Record]:
    """CC-500: its first 446 lines, which bind two colours to two objects, or all 602."""
    lines = _lines(text)[: None if everything else _CC500_COLOURS]
    return [Record(id=f"cc500-{number:03d}", text=line) for number, line in enumerate(lines)]


def _drawn(images: Iterable[int], rng: random.Random) -> list[int]:
    return rng.sample(sorted(images), _COCO_COUNT)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _pair(number: int, texts: Sequence[str]) -> Iterator[Record]:
    # The swapped lines have spaces before their punctuation, which would give them away to a judge.
    own, swapped = (re.sub(r"\s+([.,;:!?'])", r"\1", text) for text in texts)
    for name, text, other in (("a", own, swapped), ("b", swapped, own)):
        record = Record(id=f"abc6k-{number:04d}{name}", text=text)
        yield record.replace(pair=Pair(id=f"{number:04d}", text=other)) if own != swapped else record
