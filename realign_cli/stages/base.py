"""What a stage is: items in, one outcome or error for each out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from realign_cli.errors import RecordError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from realign_cli.records import Record


@dataclass(frozen=True)
class Item:
    """What a stage gets: a record, and its image as RGB if the stage looks at images.

    `maps` reads the attention maps that lie beside the image, by name; it raises RecordError where they are damaged.
    """

    record: Record
    image: Image | None = None
    maps: Callable[[], Mapping[str, NDArray[np.float32]]] = dict


@dataclass(frozen=True)
class Outcome:
    """What a stage gives: the keys it adds, the record's new image if it makes one, and pictures for people.

    `pictures` has, by kind ("overlay", "strip", "mask-0"), what draws each if it is wanted; the runner decides
    where they are stored. `maps` has attention maps by name, which are kept beside the image.
    `recovered` is what went wrong where the stage had to find its result in another way than it was asked to.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    image: Image | None = None
    pictures: Mapping[str, Callable[[], Image]] = field(default_factory=dict)
    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    recovered: RecordError | None = None


class Stage(Protocol):
    """A function from a batch of items to one outcome, or one error, for each."""

    @property
    def name(self) -> str:
        """The name of its command."""
        ...

    @property
    def requires(self) -> Mapping[str, str]:
        """The keys that a record must have, each with the command that adds it."""
        ...

    @property
    def needs_image(self) -> bool:
        """Whether its items must have images."""
        ...

    @property
    def sections(self) -> Sequence[str]:
        """The sections of the preset that decide its outcomes."""
        ...

    def is_done(self, record: Record) -> bool:
        """Whether the record has what this stage adds."""
        ...

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        """One outcome or one error for each item, in order."""
        ...


def through(stages: Sequence[Stage], items: Sequence[Item]) -> list[tuple[Record, RecordError | None]]:
    """The record of each item after all stages, in memory, and what went wrong, if only in the way that was asked for.

    A record goes no further than to the stage that could not do its part.
    """
    records = [item.record for item in items]
    errors: list[RecordError | None] = [None] * len(items)
    going = list(range(len(items)))
    for stage in stages:
        outcomes = stage([Item(records[i], items[i].image) for i in going]) if going else []
        for i, outcome in zip(list(going), outcomes, strict=True):
            if isinstance(outcome, RecordError):
                errors[i] = outcome
                going.remove(i)
            else:
                records[i] = records[i].replace(**outcome.changes)
                errors[i] = outcome.recovered or errors[i]
    return list(zip(records, errors, strict=True))
