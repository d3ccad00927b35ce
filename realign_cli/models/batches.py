"""Batches that are always full.

The last bits of what a model computes depend on how large its batch is, but not on what else is in it. In batches of
one size a result is therefore that of its own item, whatever comes before, after, or in another shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TypeVar

from realign_cli.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")


def in_full_batches(items: Sequence[T], size: int, compute: Callable[[list[T]], Iterable[R]], filling: T) -> list[R]:
    """One result per item, of batches of exactly `size`; `filling` takes the places that the last one has to spare.

    Raises:
        UsageError: `size`, which a preset names, is below 1.
    """
    if size < 1:
        raise UsageError(f"model_batch_size is {size}; it must be 1 or more")
    results: list[R] = []
    for start in range(0, len(items), size):
        batch = list(items[start : start + size])
        results += islice(compute(batch + [filling] * (size - len(batch))), len(batch))
    return results
