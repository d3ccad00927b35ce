"""Images of other systems come in with their prompts, and go out as other programs look for them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from realign_cli.data.images import image_path, open_image
from realign_cli.data.records import read_records
from realign_cli.errors import UsageError
from realign_cli.runs.interchange import export_geneval, export_t2i_compbench, import_images


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

    def test_order_is_that_of_numbers(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = images(tmp_path / "theirs", *(f"{i}.png" for i in range(12)))
        (tmp_path / "prompts.txt").write_text("".join(f"number {i}\n" for i in range(12)))
        import_images(source, tmp_path / "prompts.txt", tmp_path / "out")
        assert made(tmp_path / "out") == [(f"{i:06d}", f"number {i}", i) for i in range(12)]
        assert "paired by order: 0.png is the first, 11.png the last" in capsys.readouterr().err
        settings = json.loads((tmp_path / "out" / "run.json").read_text())["config"]
        assert settings["paired by"] == "order: 0.png is the first, 11.png the last"

    def test_numbers_of_prompts_are_no_names(self, tmp_path: Path) -> None:
        """000001.png is the first image, though the second prompt gets the id 000001."""
        source = images(tmp_path / "theirs", *(f"{i:06d}.png" for i in range(1, 9)))
        (tmp_path / "prompts.txt").write_text("".join(f"number {i}\n" for i in range(8)))
        assert import_images(source, tmp_path / "prompts.txt", tmp_path / "out").failed == 0
        assert made(tmp_path / "out") == [(f"{i:06d}", f"number {i}", i) for i in range(8)]

    def test_several_images_of_a_prompt(self, tmp_path: Path) -> None:
        source = images(tmp_path / "theirs", "7.png", "7-1.png")
        prompts = lines(tmp_path / "p.jsonl", {"text": "a", "id": "7"}, {"text": "a", "id": "7-1", "prompt_id": "7"})
        assert import_images(source, prompts, tmp_path / "out").failed == 0
        assert {entry.record.prompt_key for entry in read_records(str(tmp_path / "out"))} == {"7"}

    @pytest.mark.parametrize("key", ["id", "file_name"])
    def test_by_name(self, tmp_path: Path, key: str) -> None:
        source = images(tmp_path / "theirs", "x.png", "y.png")
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
        assert summary.failed == 1 and f"no image for prompt 'z{suffix}'" in summary.failures[0]

        (source / "x.png").rename(source / "stray.png")
        with pytest.raises(UsageError, match=rf"2 prompts have no image, such as {key} 'z.*images no prompt.*stray"):
            import_images(source, prompts, tmp_path / "off")
        assert not (tmp_path / "off").exists()

        some = lines(tmp_path / "some.jsonl", {"prompt": "why", key: f"y{suffix}"})
        summary = import_images(source, some, tmp_path / "new")
        assert [(text, shade) for _, text, shade in made(tmp_path / "new")] == [("why", 1)]
        assert summary.failed == 1 and "stray.png: no prompt for this image" in summary.failures[0]

    @pytest.mark.parametrize(
        ("form", "rule"),
        [
            ("{}.png", "file name"),
            ("./{}.png", "file name"),
            ("train/{}.png", "file name without its folder"),
            ("C:\\train\\{}.png", "file name without its folder"),
            ("train/{}.jpg", "file name without folder and suffix"),
        ],
    )
    def test_names_that_are_nearly_right(self, tmp_path: Path, form: str, rule: str) -> None:
        """In another order than that of the images, which are of three shades."""
        source = images(tmp_path / "theirs", "a.png", "b\u00e9.png", "c.png")  # \u00e9 as one character
        shades = {"c": 2, "a": 0, "be\u0301": 1}  # and as two
        prompts = lines(
            tmp_path / "prompts.jsonl",
            *({"file_name": form.format(name), "text": f"shade {shade}"} for name, shade in shades.items()),
        )
        assert import_images(source, prompts, tmp_path / "out").failed == 0
        assert made(tmp_path / "out") == [(f"{i:06d}", f"shade {s}", s) for i, s in enumerate(shades.values())]
        assert json.loads((tmp_path / "out" / "run.json").read_text())["config"]["paired by"] == rule

    @pytest.mark.parametrize(
        ("names", "prompts", "complaint"),
        [
            (["a.png", "a.jpg"], [{"file_name": "a.webp"}], "file_name 'a.webp' fits a.jpg and a.png"),
            (["0.png"], [{"file_name": "a/0.png"}, {"file_name": "b/0.png"}], "'b/0.png' fits 0.png, and so does 'a/0"),
            (["a.png", "b.png"], [{"id": "x1"}, {"id": "x2"}], "2 prompts have no image, such as id 'x1'"),
            (["a.png", "b.png"], [{"file_name": "a.png"}, {}], "jsonl:2: no 'file_name', which other prompts have"),
            (["a.png", "b.png"], [{}, {"id": "b"}], "jsonl:1: no 'id', which other prompts have"),
            (["a.png"], [{"id": "1" * 5000}], "jsonl:1: id: "),
            (["1.png", "01.png"], [{}, {}], "01.png and 1.png have one place in order"),
            (["1.jpg", "1.png"], [{}, {}], "1.jpg and 1.png have one place in order"),
        ],
    )
    def test_what_is_ambiguous_is_refused(
        self, tmp_path: Path, names: list[str], prompts: list[dict[str, object]], complaint: str
    ) -> None:
        source = images(tmp_path / "theirs", *names)
        file = lines(tmp_path / "prompts.jsonl", *({"prompt": "a", **keys} for keys in prompts))
        with pytest.raises(UsageError, match=re.escape(complaint)):
            import_images(source, file, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_ids_that_are_no_names(self, tmp_path: Path) -> None:
        """Those of a set of prompts, and images that another system numbered; or numbers, written in another way."""
        source = images(tmp_path / "theirs", "1.png", "02.png", "3.png")
        cases = {"set": ["s-b", "s-a", "s-c"], "numbers": ["3", "01", "2"]}
        for name, ids in cases.items():
            file = lines(tmp_path / f"{name}.jsonl", *({"prompt": f"number {i}", "id": i} for i in ids))
            assert import_images(source, file, tmp_path / name).failed == 0
        assert [(i, shade) for i, _, shade in made(tmp_path / "set")] == [("s-b", 0), ("s-a", 1), ("s-c", 2)]
        assert [(i, shade) for i, _, shade in made(tmp_path / "numbers")] == [("3", 2), ("01", 0), ("2", 1)]
        for i, ids in enumerate((["s-b", "s-a", "7"], ["0", "1", "2"])):
            file = lines(tmp_path / f"{i}.jsonl", *({"prompt": f"number {i}", "id": i} for i in ids))
            with pytest.raises(UsageError, match=r"prompts have no image, such as id"):
                import_images(source, file, tmp_path / "off")

    def test_hidden_files_are_no_images(self, tmp_path: Path) -> None:
        source = images(tmp_path / "theirs", "a.png", ".hidden.png")
        (source / "._a.png").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
        (tmp_path / "prompts.txt").write_text("one\n")
        assert import_images(source, tmp_path / "prompts.txt", tmp_path / "out").failed == 0
        assert made(tmp_path / "out") == [("000000", "one", 0)]

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


@pytest.mark.parametrize("export", [export_geneval, export_t2i_compbench])
def test_what_was_exported_before_stays_alone(tmp_path: Path, export: Callable[[str, Path], object]) -> None:
    cat = {"text": "a cat", "tag": "single_object", "include": []}
    records = ({"id": f"{i}", "file_name": f"{i}.png", **cat} for i in range(2))
    lines(images(tmp_path / "two", "0.png", "1.png") / "metadata.jsonl", *records)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".DS_Store").touch()
    export(str(tmp_path / "two"), tmp_path / "out")
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(UsageError, match=r"out: not empty \(\w+\); what is there would be judged too"):
        export(str(tmp_path / "two"), tmp_path / "out")
    assert sorted((tmp_path / "out").rglob("*")) == before
    with pytest.raises(UsageError, match="not a folder"):
        export(str(tmp_path / "two"), tmp_path / "two" / "0.png")
