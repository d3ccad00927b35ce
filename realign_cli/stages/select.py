"""Records of one prompt -> those with the highest number in a field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from realign_cli.records import Cost, Record, Selection
from realign_cli.stages.base import Item, Outcome

if TYPE_CHECKING:
    from realign_cli.errors import RecordError

# Who adds a key whose numbers can be chosen by.
ADDED_BY = {"caption": "caption-reward", "tags": "tag", "objects": "score", "refine": "refine"}


class Select:
    """Passes on what `choose` has chosen, which is a matter of the records of a prompt and not of a batch."""

    name, needs_image = "select", False
    requires: dict[str, str] = {}
    sections = ()

    def is_done(self, record: Record) -> bool:
        return record.select is not None

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        return [Outcome() for _ in items]


def choose(records: Sequence[Record], values: Mapping[str, float], by: str, top: int) -> list[Record]:
    """Of the records of one prompt the `top` with the highest values, of equal ones the earlier draws, in their order.

    `values` has, by id, what field `by` holds of each record that has not failed. Where all have, the first goes on.
    """
    ranked = sorted(
        (record for record in records if record.id in values),
        key=lambda record: (-values[record.id], len(record.id), record.id),  # 'a' before 'a-2' before 'a-10'
    )
    kept = {record.id for record in ranked[:top]}
    chosen = [
        record.replace(select=Selection(by=by, value=values[record.id], of=len(records)))
        for record in records
        if record.id in kept
    ] or [records[0]]
    if not any(record.cost for record in records):
        return chosen
    share = _share(records, len(chosen))
    return [record.replace(cost=share) for record in chosen]


def _share(records: Sequence[Record], count: int) -> Cost | None:
    """What was spent on the records, in `count` equal parts; None where one that has an image does not say."""
    costs = [record.cost for record in records if record.file_name or record.cost]
    known = [cost for cost in costs if cost]
    if len(known) < len(costs):
        return None
    total = sum(known, Cost(passes=0, steps=0))
    return Cost(passes=_part(total.passes, count), steps=None if total.steps is None else _part(total.steps, count))


def _part(total: float, count: int) -> int | float:
    return total // count if total % count == 0 else total / count


def number(record: Record, path: str) -> float | None:
    """The number at a dotted path, such as 'caption.reward' or 'tags.0.confidence'; None where there is none."""
    key, *rest = path.split(".")
    value: Any = record.model_dump(include={key}, exclude_unset=True).get(key)
    for step in rest:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
