"""What a study writes: what the browser is given says nothing of systems, and the private account says it all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from report_folders import HOSTILE, image, record, write_records
from study_folders import SYSTEMS, TEXTS, make_study, write_systems

from realign_cli.errors import UsageError
from realign_cli.study.design import MANIFEST, read_study
from realign_cli.study.make import Made, Request, make


def write(folders: dict[str, Path], out: Path, form: str = "all", questions: str = "alignment") -> Made:
    request = Request(questions.split(","), form, 2, None, 0)  # type: ignore[arg-type]
    return make(folders, out, request, advance=lambda count: None)


def test_the_browser_is_given_nothing_that_tells_systems_apart(finished: Path) -> None:
    study = read_study(finished)
    pages = [path for path in (finished / "site").glob("*.html") if path.stem != "index"]
    assert {page.stem for page in pages} == {rater.token for rater in study.raters}
    for page in pages:
        source = page.read_text()
        assert not [name for name in SYSTEMS if name in source]
        data = json.loads(source.split('id="data">')[1].split("</script>")[0])
        assert {key for trial in data["trials"] for key in trial} == {"text", "images"}
    files = list((finished / "site").rglob("*"))
    assert {path.stat().st_mtime for path in files} == {0}
    assert all(re.fullmatch(r"[0-9a-f]{20}\.png", path.name) for path in (finished / "site/images").iterdir())
    assert len(pages) + 1 + len(list((finished / "site/images").iterdir())) + 1 == len(files)


def test_the_account_says_which_image_is_whose(finished: Path) -> None:
    study = read_study(finished)
    items = {item.prompt: item for item in study.items if item.prompt}
    assert [item.text for item in items.values()] == list(TEXTS)
    for place, name in enumerate(SYSTEMS):
        shown = Image.open(finished / "site/images" / items["3"].images[place])
        assert shown.tobytes() == image(20 * place + 3).tobytes(), name
    assert {item.systems for item in items.values()} == {SYSTEMS}


def test_metadata_of_images_stays_behind(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    folders = write_systems(tmp_path)
    told = PngInfo()
    told.add_text("parameters", "made by final")
    for path in folders["final"].glob("*.png"):
        Image.open(path).save(path, pnginfo=told)
    write(folders, tmp_path / "study")
    assert not [path for path in (tmp_path / "study/site/images").iterdir() if b"made by" in path.read_bytes()]


def test_the_same_image_of_several_systems_is_shown_once(tmp_path: Path) -> None:
    """Where all are the same there is nothing to ask; in pairs, of the pair that is."""
    folders = write_systems(tmp_path)
    for name in ("plain", "structure"):
        image(0).save(folders[name] / "0.png")  # as final has it
    image(1).save(folders["plain"] / "1.png")
    made = write(folders, tmp_path / "all")
    assert made.notices == ["1 items are left out, in which all images are the same"]
    items = {item.prompt: item for item in made.study.items if item.prompt}
    assert "0" not in items and len(set(items["1"].images)) == 2
    made = write(folders, tmp_path / "pairwise", form="pairwise")
    assert [item.systems[1] for item in made.study.items if item.prompt == "1"] == ["structure"]


def test_what_cannot_be_used_is_left_out_and_said(tmp_path: Path) -> None:
    folders = write_systems(tmp_path)
    (folders["plain"] / "1.png").write_bytes(b"no image")
    lines = (folders["structure"] / "metadata.jsonl").read_text().splitlines()
    (folders["structure"] / "metadata.jsonl").write_text("\n".join(["{", *lines[1:]]))
    image(99, size=32).save(folders["final"] / "2.png")
    made = write(folders, tmp_path / "study")
    assert {item.prompt for item in made.study.items} == {"2", "3", "4", None}
    assert len(made.failures) == 2 and "1.png: not a readable image" in made.failures[1]
    assert made.notices == [
        "1 prompts are left out, of which not all systems have an image",
        "images of other sizes, by which raters may tell systems apart: final 32 x 32/64 x 64, plain 64 x 64, "
        "structure 64 x 64",
    ]


@pytest.mark.parametrize("name", ["questions", "in use", "texts", "nothing", "ten"])
def test_what_is_wrong_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    folders, out, questions, told = write_systems(tmp_path), tmp_path / "study", "alignment", ""
    if name == "questions":
        questions, told = "alignment,beauty", "--questions beauty: not a question; there are: alignment, fidelity"
    elif name == "in use":
        (out / "answers").mkdir(parents=True)
        told = "in use; give --out a new folder"
    elif name == "texts":
        folders["other"] = write_records(tmp_path / "other", [record("0", "something else")], shade=9)
        told = "one id and two texts"
    elif name == "nothing":
        folders["other"] = write_records(tmp_path / "other", [record("x", "something else")])
        told = "no prompt, by its id"
    elif name == "ten":
        folders |= {f"{i}": folders["final"] for i in range(7)}
        told = "10 systems: at most 9"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match=re.escape(told)):
        write(folders, out, questions=questions)
    assert sorted(tmp_path.iterdir()) == before and not (out / MANIFEST).exists()


def test_the_same_seed_gives_the_same_study_but_for_its_links(tmp_path: Path) -> None:
    first, second = (read_study(make_study(tmp_path / name)) for name in ("a", "b"))
    assert first.model_copy(update={"raters": ()}) == second.model_copy(update={"raters": ()})
    assert [rater.trials for rater in first.raters] == [rater.trials for rater in second.raters]
    assert not {rater.token for rater in first.raters} & {rater.token for rater in second.raters}


def test_instructions_are_about_what_is_asked(tmp_path: Path, finished: Path) -> None:
    write(write_systems(tmp_path), tmp_path / "study", questions="fidelity")
    only, both = (next((one / "site").glob("[0-9a-f]*.html")).read_text() for one in (tmp_path / "study", finished))
    for source, told in ((only, False), (both, True)):
        assert ("fits the text best" in source) == ("An example" in source) == told
        assert "Which image looks best, whatever the text says?" in source


def test_hostile_prompts_stay_text(tmp_path: Path) -> None:
    folders = write_systems(tmp_path, HOSTILE)
    write(folders, tmp_path / "study")
    for page in (tmp_path / "study/site").glob("*.html"):
        source = page.read_text()
        markup = source.split('<script type="application/json"')[0]
        assert "owned" not in markup and source.count("<script") in (0, 2) and "<h1>owned" not in source


@pytest.mark.parametrize(
    ("text", "told"),
    [(None, "no study in it"), ("{", "not readable"), ("[]", "not readable"), ('{"schema": 2}', "schema 2 is needed")],
)
def test_a_folder_that_is_no_study(tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(UsageError, match=told):
        read_study(tmp_path)


def test_a_later_key_does_not_matter(finished: Path, tmp_path: Path) -> None:
    data = json.loads((finished / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**data, "later": 1}))
    assert read_study(tmp_path) == read_study(finished)
