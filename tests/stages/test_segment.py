"""Each object gets the boxes of its label and the union of their masks; a mask that is not one is told, not trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from realign_cli.errors import RecordError
from realign_cli.records import Box, Mask, Object, Record
from realign_cli.roles import Detection
from realign_cli.stages.base import Item, Outcome
from realign_cli.stages.run_lengths import decode, encode
from realign_cli.stages.segment import Segment

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Found:
    """Detector and mask model in one: what it was told is there, cut out as full boxes."""

    def __init__(self, *found: Detection) -> None:
        self.found = found
        self.asked: list[list[str]] = []

    @property
    def detector(self) -> Found:
        return self

    @property
    def mask_model(self) -> Found:
        return self

    def detect(self, images: Sequence[Image.Image], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        self.asked += [list(asked) for asked in labels]
        return [[one for one in self.found if one.label in asked] for asked in labels]

    def masks(self, images: Sequence[Image.Image], boxes: Sequence[Sequence[Box]]) -> list[NDArray[np.bool_]]:
        cut = [np.zeros((len(own), image.height, image.width), bool) for image, own in zip(images, boxes, strict=True)]
        for masks, own in zip(cut, boxes, strict=True):
            for mask, (x0, y0, x1, y1) in zip(masks, own, strict=True):
                mask[y0:y1, x0:x1] = True
        return cut


def blank(height: int, width: int) -> Image.Image:
    return Image.new("RGB", (width, height))


def test_boxes_and_union_of_each_label() -> None:
    found = Found(
        Detection("cup", (0, 0, 2, 2), 0.9), Detection("dog", (5, 5, 6, 7), 0.8), Detection("cup", (1, 1, 4, 3), 0.7)
    )
    objects = [
        Object(label="cup", phrase="two cups", likelihood=2.0),
        Object(label="dog", phrase="", likelihood=0.0),
        Object(label="cat", phrase="a cat", likelihood=0.5),
    ]
    image = blank(8, 6)
    (outcome,) = Segment(found)([Item(Record(id="1", text="a", objects=objects), image)])  # type: ignore[arg-type]
    assert isinstance(outcome, Outcome)
    assert found.asked == [["cup", "cat"]]  # what cannot be in the image is not looked for
    cup, dog, cat = outcome.changes["objects"]
    assert cup.boxes == [(0, 0, 2, 2), (1, 1, 4, 3)]
    expected = np.zeros((8, 6), bool)
    expected[0:2, 0:2] = expected[1:3, 1:4] = True
    assert np.array_equal(decode(cup.mask, image), expected)
    assert (dog.boxes, dog.mask, cat.boxes, cat.mask) == ([], None, [], None)
    assert outcome.pictures.keys() == {"mask-0", "overlay"}
    assert np.array_equal(np.asarray(outcome.pictures["mask-0"]()), expected * np.uint8(255))
    assert (np.asarray(outcome.pictures["overlay"]()).std(2) > 0).tolist() == expected.tolist()  # coloured where masked


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_run_lengths_round_trip(mask: NDArray[np.bool_]) -> None:
    coded = encode(mask)
    assert coded.size == mask.shape
    assert np.array_equal(decode(coded, blank(*mask.shape)), mask)


@given(st.text(max_size=12))
def test_any_run_lengths_decode_or_are_refused(counts: str) -> None:
    try:
        assert decode(Mask(size=(4, 6), counts=counts), blank(4, 6)).shape == (4, 6)
    except RecordError as error:
        assert error.kind == "bad_mask" and "run 'realign segment' again" in str(error)


@pytest.mark.parametrize("size", [(6, 4), (10**9, 10**9), (-4, -6)])
def test_a_mask_of_another_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(RecordError, match="the image 6x4; run 'realign segment' again"):
        decode(Mask(size=size, counts=encode(np.ones((4, 6), bool)).counts), blank(4, 6))
