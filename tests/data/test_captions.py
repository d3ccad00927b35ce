from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from realign_cli.data.captions import read_captions
from realign_cli.errors import UsageError

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "annotations": [{"id": 7, "image_id": 1, "caption": "A cat.\n"}, {"id": 8, "image_id": 1, "caption": "A red cat."}],
}


def test_text(tmp_path: Path):
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfa cat\r\n\n  a dog \n")
    assert list(read_captions(str(tmp_path / "p.txt")).prompts) == ["a cat", "a dog"]


@pytest.mark.parametrize("key", ["prompt", "text", "caption"])
def test_json_lines_say_which_key_was_used(tmp_path: Path, key: str):
    (tmp_path / "p.jsonl").write_text(f'{{"id": 1, "{key}": "a cat"}}\n{{"{key}": "a dog"}}\n')
    captions = read_captions(str(tmp_path / "p.jsonl"))
    assert list(captions.prompts) == ["a cat", "a dog"]
    assert captions.note.endswith(f"key '{key}'")


def test_coco(tmp_path: Path):
    (tmp_path / "captions_train2014.json").write_text(json.dumps(COCO))
    captions = read_captions(str(tmp_path / "captions_train2014.json"))
    assert list(captions.prompts) == ["A cat.", "A red cat."] and not captions.examples


def test_a_folder_of_records_brings_its_images(tmp_path: Path):
    Image.new("RGB", (5, 4), "red").save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "red", "id": "0"}\n')
    captions = read_captions(str(tmp_path))
    assert list(captions.prompts) == ["red"]
    assert captions.examples[0][1]().getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("p.txt", "\n \n", "no prompts in this file"),
        ("p.txt", None, "No such file"),
        ("p.jsonl", "\n", "no prompts in this file"),
        ("p.jsonl", '{"title": "a cat", "url": "x"}\n', "p.jsonl:1: no 'prompt', 'text' or 'caption' with a string "
         "in it; keys found: title, url"),
        ("p.jsonl", '{"text": "a cat"}\n{"text": 3}\n', "p.jsonl:2: no 'prompt', 'text' or 'caption' with a "
         "string in it; keys found: text"),
        ("p.jsonl", '{"text": "a cat"}\n{"te', "p.jsonl:2: not JSON"),
        ("c.json", '{"images": [], "info": {}}', "no 'annotations' with a 'caption' each, as COCO has them; found: "
         "images, info"),
        ("c.json", '{"annotations": []}', "no prompts in this file"),
        ("c.json", "[1]", "found: a list"),
        ("c.csv", "a,b", "give a .txt, .jsonl or COCO .json file"),
        ("nowhere", None, "no such file or folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said(tmp_path: Path, name: str, content: str | None, complaint: str):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError) as caught:
        read_captions(str(tmp_path / name))
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_a_dataset_out_of_reach():
    with pytest.raises(UsageError, match="--data no-such/dataset: the hub gives no such dataset"):
        read_captions("no-such/dataset")


@pytest.mark.parametrize(
    ("columns", "prompts"),
    [
        ({"caption": ["a red circle", " a blue ring "], "url": ["x", "y"]}, ["a red circle", "a blue ring"]),
        ({"sentences": [["a red circle", "a circle"], ["a ring"]]}, ["a red circle", "a circle", "a ring"]),
    ],
)  # fmt: skip
def test_a_dataset_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: dict[str, list[object]], prompts: list[str]
):
    """Read by the library itself, from a file in the place of the hub."""
    import datasets

    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "train.parquet")
    load = datasets.load_dataset

    def from_file(name: str, split: str) -> datasets.Dataset:
        assert name == "someone/captions"
        return load("parquet", data_files=str(tmp_path / "train.parquet"), split=split, cache_dir=str(tmp_path / "c"))

    monkeypatch.setattr(datasets, "load_dataset", from_file)
    found = read_captions("someone/captions")
    assert found.prompts == prompts and not found.examples
    assert found.note == f"someone/captions: column '{next(iter(columns))}'"
