"""Images of other systems come in with their prompts, and go out as other programs look for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from realign_cli.errors import UsageError
from realign_cli.plumbing.layouts import export_geneval, export_t2i_compbench, import_images
from realign_cli.plumbing.source import image_path, open_image, read_records


def images(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for i, name in enumerate(names):
        Image.new("RGB", (2, 2), (i, 0, 0)).save(folder / name)
    return folder


def lines(path: Path, *records: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def made(folder: Path) -> list[tuple[str, str, int]]:
    """Id, prompt and shade of each record."""
    entries = list(read_records(str(folder)))
    shades = [open_image(image_path(e.record, e.base)).getpixel((0, 0)) for e in entries]
    return [(e.record.id, e.record.text, shade[0]) for e, shade in zip(entries, shades, strict=True)]


class TestImport:
    def test_in_order(self, tmp_path: Path) -> None:
        source = images(tmp_path / "theirs", "b.png", "a.png", "c.PNG")
        (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
        summary = import_images(source, tmp_path / "prompts.txt", tmp_path / "out")
        assert (summary.records, summary.failed) == (3, 0)
        assert made(tmp_path / "out") == [("000000", "one", 1), ("000001", "two", 0), ("000002", "three", 2)]

    @pytest.mark.parametrize("key", ["id", "file_name"])
    def test_by_name(self, tmp_path: Path, key: str) -> None:
        source = images(tmp_path / "theirs", "x.png", "y.png", "stray.png")
        suffix = ".png" if key == "file_name" else ""
        prompts = lines(
            tmp_path / "prompts.jsonl",
            {"prompt": "why", key: f"y{suffix}", "mine": [1]},
            {"prompt": "gone", key: f"z{suffix}"},
            {"prompt": "ex", key: f"x{suffix}"},
        )
        summary = import_images(source, prompts, tmp_path / "out")
        assert [(text, shade) for _, text, shade in made(tmp_path / "out")] == [("why", 1), ("ex", 0)]
        assert next(read_records(str(tmp_path / "out"))).record.model_extra == {"mine": [1]}
        assert summary.failed == 2
        assert "no image for prompt" in summary.failures[0] and "stray.png: no prompt" in summary.failures[1]

    def test_broken_image_is_named_and_the_rest_comes_in(self, tmp_path: Path) -> None:
        source = images(tmp_path / "theirs", "a.png", "b.png")
        (source / "a.png").write_bytes(b"")
        (tmp_path / "prompts.txt").write_text("one\ntwo\n")
        summary = import_images(source, tmp_path / "prompts.txt", tmp_path / "out")
        assert made(tmp_path / "out") == [("000001", "two", 1)]
        assert "a.png: not a readable image" in summary.failures[0]

    def test_numbers_that_differ_need_names(self, tmp_path: Path) -> None:
        source = images(tmp_path / "theirs", "a.png")
        (tmp_path / "prompts.txt").write_text("one\ntwo\n")
        with pytest.raises(UsageError, match=r"2 prompts in .* and 1 images in .*: give each prompt an 'id'"):
            import_images(source, tmp_path / "prompts.txt", tmp_path / "out")
        (tmp_path / "empty").mkdir()
        with pytest.raises(UsageError, match="no folder of images"):
            import_images(tmp_path / "empty", tmp_path / "prompts.txt", tmp_path / "out")


def test_geneval(tmp_path: Path) -> None:
    """As its evaluate_images.py reads: folders of digits, an object with tag, include and prompt, samples of digits."""
    source = images(tmp_path / "final", "0.png", "1.png", "2.png", "3.png")
    bench = {"tag": "single_object", "include": [{"class": "bench", "count": 1}]}
    cow = {"tag": "counting", "include": [{"class": "cow", "count": 2}], "exclude": [{"class": "cow", "count": 3}]}
    records = [("a bench", bench), ("two cows", cow), ("a bench", bench), ("a dog", {})]
    lines(
        source / "metadata.jsonl",
        *({"id": str(i), "text": text, "file_name": f"{i}.png", **keys} for i, (text, keys) in enumerate(records)),
    )
    summary = export_geneval(str(source), tmp_path / "out")
    assert summary.failed == 1 and "metadata.jsonl:4: no 'tag' and 'include'" in summary.failures[0]
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {
        "00000/metadata.jsonl",
        "00000/samples/00000.png",
        "00000/samples/00001.png",
        "00001/metadata.jsonl",
        "00001/samples/00000.png",
    }
    assert json.loads((tmp_path / "out" / "00000" / "metadata.jsonl").read_text()) == {**bench, "prompt": "a bench"}
    assert json.loads((tmp_path / "out" / "00001" / "metadata.jsonl").read_text()) == {**cow, "prompt": "two cows"}
    assert Image.open(tmp_path / "out" / "00000" / "samples" / "00001.png").getpixel((0, 0)) == (2, 0, 0)


def test_t2i_compbench(tmp_path: Path) -> None:
    """As its BLIP_vqa.py reads: the prompt before the first "_", a number after the last by which it sorts."""
    source = images(tmp_path / "final", "0.png", "1.png", "2.png")
    texts = ["a red book. and a vase", "and/or", "a blue bench"]
    lines(
        source / "metadata.jsonl",
        *({"id": str(i), "text": text, "file_name": f"{i}.png"} for i, text in enumerate(texts)),
    )
    summary = export_t2i_compbench(str(source), tmp_path / "out")
    assert summary.failed == 1 and "metadata.jsonl:2: the prompt cannot be the name of a file" in summary.failures[0]
    names = sorted((path.name for path in (tmp_path / "out" / "samples").iterdir()), key=lambda n: n.split("_")[-1])
    assert [name.split("_")[0] for name in names] == [texts[0], texts[2]]
    assert [int(name.split("_")[-1].split(".")[0]) for name in names] == [0, 1]
