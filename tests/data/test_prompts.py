"""One reader of prompt files for every command: by suffix and content, and what is no prompt is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from realign_cli.data.captions import read_captions
from realign_cli.data.prompts import read_prompt_file, read_prompts, with_draws
from realign_cli.errors import UsageError

LINES = '{"prompt": "a red square", "id": "x1"}\n{"prompt": "a blue circle", "id": "x2"}\n'
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "annotations": [{"id": 7, "image_id": 1, "caption": "A cat.\n"}, {"id": 8, "image_id": 1, "caption": "A red cat."}],
}


def read(folder: Path, name: str, text: str) -> list[tuple[str, str, int]]:
    """Id, prompt and seed of each record; `train` reads the same prompts."""
    path = folder / name
    path.write_text(text)
    entries = list(read_prompts(path, 42))
    assert [entry.record.text for entry in entries] == list(read_captions(str(path)).prompts)
    return [(entry.record.id, entry.record.text, entry.record.seed) for entry in entries]


def test_text(tmp_path: Path) -> None:
    text = "\ufeffa red circle\r\n\n a blue\u2028square \n{red|green} ring\n"
    expected = ["a red circle", "a blue\u2028square", "{red|green} ring"]
    for name in ("a.txt", "a.TXT", "a"):
        assert read(tmp_path, name, text) == [(f"{i:06d}", prompt, 42) for i, prompt in enumerate(expected)]


def test_json_lines(tmp_path: Path) -> None:
    text = '{"prompt": "a", "text": "b"}\n{"text": " b\\n", "id": "x", "seed": 7, "more": 1}\n{"caption": "c"}\n'
    text += '{"prompt": " ", "text": "d", "id": 4}'
    expected = [("000000", "a", 42), ("x", "b", 7), ("000002", "c", 42), ("4", "d", 42)]
    assert read(tmp_path, "a.jsonl", text) == expected
    assert read_prompt_file(tmp_path / "a.jsonl").note.endswith("a.jsonl: keys 'prompt', 'text', 'caption'")


@pytest.mark.parametrize("name", ["p.jsonl", "P.JSONL", "p.ndjson", "p.json", "fd"])
def test_json_lines_under_any_name(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, name, LINES) == [("x1", "a red square", 42), ("x2", "a blue circle", 42)]


@pytest.mark.parametrize("name", ["captions_val2014.json", "C.JSON", "fd"])
@pytest.mark.parametrize("indent", [None, 1])
def test_coco(tmp_path: Path, name: str, indent: int | None) -> None:
    assert read(tmp_path, name, json.dumps(COCO, indent=indent)) == [("7", "A cat.", 42), ("8", "A red cat.", 42)]
    assert read_prompt_file(tmp_path / name).note == f"{tmp_path / name}: COCO captions"


def test_empty_captions_of_coco_are_counted(tmp_path: Path) -> None:
    empty = {"id": 9, "image_id": 1, "caption": " \n"}
    read(tmp_path, "a.json", json.dumps({"annotations": [empty, *COCO["annotations"]]}))
    assert read_prompt_file(tmp_path / "a.json").note.endswith("a.json: COCO captions, without 1 empty ones")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.txt", " \n\n", "a.txt: no prompts in this file"),
        ("a.jsonl", " \n\n", "a.jsonl: no prompts in this file"),
        ("a.json", '{"annotations": []}', "a.json: no prompts in this file"),
        ("a.txt", LINES, "a.txt: a JSON object in a text file; name the file .jsonl"),
        ("a.csv", 'Prompt,Category\n"a red square, and a ring",shapes\n', "a.csv: prompts are not read from '.csv'"),
        ("a.zip", "", "a.zip: prompts are not read from '.zip'"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": ', "a.jsonl:2: not JSON"),
        ("a", '{"prompt": "a"}\n{"prompt": ', "a:2: not JSON"),
        ("a.jsonl", '{"prompt": 1}', "a.jsonl:1: no 'prompt', 'text' or 'caption' with a string in it; keys found: pr"),
        ("a.jsonl", "[]", "a.jsonl:1: no 'prompt', 'text' or 'caption' with a string in it; keys found: a list"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": "", "text": "\\t"}', "a.jsonl:2: 'prompt' is empty"),
        ("a.jsonl", '{"caption": "a \\ud83d cat"}', "a.jsonl:1: 'caption' holds half a character"),
        ("a.json", '{"annotations": [{"caption": "\\udc00"}]}', "a.json: annotation 0: 'caption' holds half a char"),
        ("a.json", '{"images": [], "info": {}}', "no 'annotations' with a 'caption' each, as COCO has them; found: im"),
        ("a.json", "[1]", "found: a list"),
        ("a.json", "{", "a.json:1: not JSON"),
    ],
)
def test_unusable(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    """To `generate` and to `train` alike."""
    path = tmp_path / name
    path.write_text(text)
    for reader in (lambda: list(read_prompts(path, 42)), lambda: read_captions(str(path))):
        with pytest.raises(UsageError, match=re.escape(complaint)) as caught:
            reader()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"prompt": "a", "id": "../x"}', "a.jsonl:1: id: "),
        ('{"prompt": "a", "id": "000001"}\n{"prompt": "b"}', "a.jsonl:2: id '000001' was used before"),
        ('{"prompt": "a", "mine": "\\ud800"}', "a.jsonl:1: not a JSON record"),
    ],
)
def test_what_can_be_no_record(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UsageError, match=re.escape(complaint)):
        list(read_prompts(tmp_path / "a.jsonl", 42))


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(UsageError, match="name a text file, such as"):
            list(read_prompts(path, 42))
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"a\.txt: not UTF-8 text"):
        list(read_prompts(tmp_path / "a.txt", 42))


def drawn(folder: Path, text: str, count: int) -> list[tuple[str, str | None]]:
    (folder / "p.jsonl").write_text(text)
    made = with_draws(list(read_prompts(folder / "p.jsonl", 42)), count)
    return [(entry.record.id, entry.record.prompt_id) for entry in made]


def test_draws_stand_side_by_side_and_name_their_prompt(tmp_path: Path) -> None:
    assert drawn(tmp_path, LINES, 1) == [("x1", None), ("x2", None)]
    three = drawn(tmp_path, LINES, 3)
    assert three == [(f"{i}{draw}", i) for i in ("x1", "x2") for draw in ("", "-1", "-2")]
    assert [one for one in three if not one[0].endswith("-2")] == drawn(tmp_path, LINES, 2)


def test_a_prompt_file_may_name_the_prompts_of_draws(tmp_path: Path) -> None:
    """As a metadata.jsonl does, which thereby makes the same images again."""
    text = '{"text": "a", "id": "x"}\n{"text": "a", "id": "x-2", "prompt_id": "x"}\n'
    assert drawn(tmp_path, '{"text": "a", "id": "y", "prompt_id": 7}', 1) == [("y", "7")]
    assert drawn(tmp_path, text, 1) == [("x", None), ("x-2", "x")]
    assert drawn(tmp_path, text, 2) == [("x", "x"), ("x-1", "x"), ("x-2", "x"), ("x-2-1", "x")]


@pytest.mark.parametrize(
    ("ids", "complaint"),
    [
        (["b", "a-1", "a"], "p.jsonl:2: id 'a-1' is that of draw 1 of 'a' too; give the prompt another id"),
        (["a", "a-3"], "p.jsonl:2: id 'a-3' is that of draw 3 of 'a' too; give the prompt another id"),
        (["b" * 127], f"p.jsonl:1: id '{'b' * 127}' leaves no room for '-1'; give a shorter one"),
        (["a", "a-4", "a-01", "a-b"], None),
    ],
)
def test_ids_that_draws_would_have_are_refused(tmp_path: Path, ids: list[str], complaint: str | None) -> None:
    text = "".join(json.dumps({"text": "a", "id": i}) + "\n" for i in ids)
    if complaint is None:
        assert len(drawn(tmp_path, text, 4)) == 16
        return
    with pytest.raises(UsageError) as error:
        drawn(tmp_path, text, 4)
    assert str(error.value) == f"{tmp_path}/{complaint}"
