"""Work that is begun before its result is wanted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

from realign_cli.errors import UsageError

T = TypeVar("T")


def prefetch(items: Iterable[T], count: int) -> Iterator[T]:
    """The items, `count` of them drawn ahead of the one given out; what is wrong with one is raised in its turn."""
    drawn: deque[T] = deque()
    wrong = None
    try:
        for item in items:
            drawn.append(item)
            if len(drawn) > count:
                yield drawn.popleft()
    except UsageError as error:
        wrong = error
    yield from drawn
    if wrong:
        raise wrong
