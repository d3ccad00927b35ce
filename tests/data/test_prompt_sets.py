"""Prompt sets have the published number of prompts, ids that stay, and pairs that name each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from realign_cli.data.prompt_sets import abc6k, cc500, coco, coco_images
from realign_cli.errors import UsageError

DATA = Path(__file__).parents[3] / "shared" / "data" / "prompts"
published = pytest.mark.skipif(not DATA.is_dir(), reason="the published prompt files are not here")


def test_pairs_name_each_other() -> None:
    text = "A red cat, a blue dog.\nA blue cat , a red dog .\n a big black cat \na big black cat\n"
    a, b, c, d = abc6k(text)
    assert (a.id, a.text) == ("abc6k-0000a", "A red cat, a blue dog.")
    assert (b.id, b.text) == ("abc6k-0000b", "A blue cat, a red dog.")
    assert a.pair and b.pair and a.pair.id == b.pair.id == "0000"
    assert (a.pair.text, b.pair.text) == (b.text, a.text)
    assert c.text == d.text == "a big black cat" and c.pair is d.pair is None  # the swap changed nothing
    with pytest.raises(UsageError, match="1 lines"):
        abc6k("a\n")


@published
def test_abc6k() -> None:
    records = abc6k((DATA / "ABC-6K.txt").read_text())
    assert len(records) == len({record.id for record in records}) == 6434
    assert sum(record.pair is None for record in records) == 2 * 95
    for record in records:
        assert record.pair is None or record.pair.text != record.text
        assert " ." not in record.text or " .4" in record.text


@published
def test_cc500() -> None:
    text = (DATA / "CC-500.txt").read_text()
    assert len(cc500(text)) == 446 and len(cc500(text, everything=True)) == 602
    assert all(" and " in record.text for record in cc500(text))
    assert cc500(text, everything=True)[445] == cc500(text)[445]
    assert all(record.text == record.text.strip() for record in cc500(text, everything=True))


def test_coco() -> None:
    annotations = [
        {"id": 10 * image + k, "image_id": image, "caption": f"caption {k} of\n{image} "}
        for image in range(6000)
        for k in range(3)
    ]
    text = json.dumps({"annotations": annotations})
    records = coco(text)
    assert len(records) == len({record.id for record in records}) == 5000
    assert records == coco(json.dumps({"annotations": annotations[::-1]}))  # not the order of the file decides
    numbers = coco_images(range(6000))
    assert [f"coco-{number:012d}" for number in numbers] == [record.id for record in records]
    for record in records[:100]:
        assert record.text.split()[-1] == str(int(record.id.removeprefix("coco-")))
    assert len({record.text.split()[1] for record in records}) == 3
    for wrong in ("{}", "no json", '{"annotations": [{"id": 1}]}', json.dumps({"annotations": annotations[:9]})):
        with pytest.raises(UsageError, match="captions"):
            coco(wrong)
