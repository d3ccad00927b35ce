from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realign_cli.errors import UsageError
from realign_cli.models.batches import in_full_batches


@given(st.lists(st.integers()), st.integers(1, 9))
def test_results_in_order_of_batches_that_are_all_full(items: list[int], size: int) -> None:
    batches: list[list[int]] = []

    def compute(batch: list[int]) -> list[int]:
        batches.append(batch)
        return [item + 1 for item in batch]

    assert in_full_batches(items, size, compute, -7) == [item + 1 for item in items]
    assert all(len(batch) == size for batch in batches)
    given_out = [item for batch in batches for item in batch]
    assert given_out[: len(items)] == items
    assert given_out[len(items) :] == [-7] * (-len(items) % size)


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_that_holds_nothing_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match=f"model_batch_size is {size}"):
        in_full_batches([1], size, list, 0)
