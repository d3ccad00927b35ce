"""What `eval` says of attention maps: means of how much of them lies in the masks, by what `refine --maps` recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realign_cli.records import Record, WordMap


def map_shares(records: Iterable[Record]) -> dict[str, Any] | None:
    """Means over the images whose records say so, each the mean of its phrases, and of its attributes if it has any.

    Those of before stand there where all of them are known. None where no record says anything.
    """
    images = [record.maps for record in records if record.maps]
    if not images:
        return None
    attributes = [own for image in images if (own := [one for phrase in image for one in phrase.attributes])]
    found = {"area": fmean(fmean(phrase.area for phrase in image) for image in images), "phrases": _means(images)}
    return found | ({"attributes": _means(attributes)} if attributes else {})


def _means(images: Sequence[Sequence[WordMap]]) -> dict[str, float]:
    means: dict[str, float] = {"n": len(images)}
    before = [[one.before for one in image if one.before is not None] for image in images]
    if all(len(known) == len(image) for known, image in zip(before, images, strict=True)):
        means["before"] = fmean(map(fmean, before))
    return means | {"after": fmean(fmean(one.after for one in image) for image in images)}


def map_line(name: str, shares: Mapping[str, Any]) -> str:
    """The means of one side, in words."""
    parts = []
    for kind in ("phrases", "attributes"):
        if kind in shares:
            own = shares[kind]
            before = f"{own['before']:.3f} before, " if "before" in own else ""
            parts.append(f"{kind} {before}{own['after']:.3f} after (n {own['n']})")
    return f"attention inside masks ({name}): {', '.join(parts)}; the masks are {shares['area']:.3f} of the image"
