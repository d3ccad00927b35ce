"""`generate --maps` and `refine --maps` on the embedded models, in this process: files, records, and going on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save
from typer.testing import CliRunner

from realign_cli.app import app
from realign_cli.runs import runner
from realign_cli.runs.times import TIMES

if TYPE_CHECKING:
    from click.testing import Result

PROMPTS = "a red circle and a blue square\na red ring and a red cross\nleft of the\n"
SMALL = [
    f"{role}.model_batch_size=1" for role in ("generator", "tagger", "detector", "mask_model")
]  # nothing is padded
DRAW = ("--set", "generator.steps=2", "--set", SMALL[0], "-q")
QUICK = (*DRAW, *(word for one in SMALL[1:] for word in ("--set", one)))


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def succeed(*words: object) -> Result:
    done = run(*words)
    assert done.exit_code == 0, done.output
    return done


def files(folder: Path) -> dict[str, bytes]:
    """All that a run makes, but for its account and its times."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("run.json", TIMES))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with plain/, coarse/ with maps and final/ with maps; read it only."""
    folder = tmp_path_factory.mktemp("maps")
    (folder / "prompts.txt").write_text(PROMPTS)
    draw = ("generate", "--prompts", folder / "prompts.txt", *DRAW)
    succeed(*draw, "--out", folder / "plain")
    succeed(*draw, "--out", folder / "coarse", "--maps", "--map-words", "and, left of")
    succeed("refine", "--in", folder / "coarse", "--out", folder / "final", "--maps", *QUICK)
    return folder


def test_maps_lie_beside_the_same_images(here: Path) -> None:
    plain, coarse = files(here / "plain"), files(here / "coarse")
    assert {name: data for name, data in coarse.items() if name in plain} == plain
    added = {f"maps/00000{i}.safetensors" for i in range(3)} | {f"pictures/00000{i}-maps.png" for i in range(3)}
    assert coarse.keys() - plain.keys() == added
    maps = load_file(here / "coarse" / "maps" / "000001.safetensors")
    assert set(maps) == {"0:10 a red ring", "2:5 red", "15:26 a red cross", "17:20 red", "11:14 and"}
    assert all(one.shape == (16, 16) and one.dtype == np.float32 for one in maps.values())
    assert set(load_file(here / "coarse" / "maps" / "000002.safetensors")) == {"0:7 left of"}
    config = json.loads((here / "coarse" / "run.json").read_text())["config"]
    assert config["maps"] is True and config["map_words"] == ["and", "left of"] and "parser" in config["settings"]
    assert "maps" not in json.loads((here / "plain" / "run.json").read_text())["config"]


def test_refining_sets_its_maps_beside_those_of_before(here: Path) -> None:
    refined = [line for line in lines(here / "final") if line.get("maps")]
    assert refined
    for line in refined:
        kept = load_file(here / "final" / "maps" / f"{line['id']}.safetensors")
        before = load_file(here / "coarse" / "maps" / f"{line['id']}.safetensors")
        for phrase in line["maps"]:
            (attribute,) = phrase["attributes"]
            for one in (phrase, attribute):
                start, stop = one["place"]
                assert line["text"][start:stop] == one["words"]
                name = f"{start}:{stop} {one['words']}"
                assert np.array_equal(kept[f"before {name}"], before[name])
                assert not np.array_equal(kept[f"after {name}"], before[name])
                assert 0 < one["before"] < 1 and 0 < one["after"] < 1 and one["before"] != one["after"]
            assert 0 < phrase["area"] < 0.5
        drawn = {name: Image.open(here / name / "pictures" / f"{line['id']}-maps.png") for name in ("coarse", "final")}
        assert drawn["final"].height > drawn["coarse"].height + 192
    done = succeed("eval", "--in", here / "final", "--metrics", "oracle", "--out", here / "eval")
    told = json.loads((here / "eval" / "metrics.json").read_text())["maps"]["in"]
    means = [np.mean([phrase["after"] for phrase in line["maps"]]) for line in refined]
    assert told["phrases"]["after"] == pytest.approx(np.mean(means)) and told["phrases"]["n"] == len(refined)
    assert "attention inside masks (in): phrases " in done.stdout


def test_refining_without_maps_draws_the_same_images(here: Path, tmp_path: Path) -> None:
    succeed("refine", "--in", here / "coarse", "--out", tmp_path / "final", *QUICK)
    for one, other in zip(lines(tmp_path / "final"), lines(here / "final"), strict=True):
        assert (tmp_path / "final" / one["file_name"]).read_bytes() == (here / "final" / one["file_name"]).read_bytes()
        assert one == {key: value for key, value in other.items() if key != "maps"}
    assert not (tmp_path / "final" / "maps").exists()


def test_maps_go_with_an_image_that_is_copied(here: Path, tmp_path: Path) -> None:
    succeed("tag", "--in", here / "coarse", "--out", tmp_path / "tagged", *QUICK)
    kept = {name: data for name, data in files(here / "coarse").items() if name.startswith("maps/")}
    assert kept.items() <= files(tmp_path / "tagged").items()


def breaking(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Interrupt the run as it writes the maps of the record of that number."""
    write: Callable[..., bytes] = runner.maps_bytes
    count = 0

    def once(maps: Any) -> bytes:
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt
        return write(maps)

    monkeypatch.setattr(runner, "maps_bytes", once)


def test_what_was_interrupted_or_sharded_gives_the_same_bytes(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = ("generate", "--prompts", here / "prompts.txt", *DRAW, "--maps", "--map-words", "and,left of")
    with monkeypatch.context() as patch:
        breaking(patch, 2)
        assert run(*draw, "--out", tmp_path / "coarse", "--batch-size", 1).exit_code != 0
    assert len(list((tmp_path / "coarse" / "maps").iterdir())) == 1
    torn = tmp_path / "coarse" / "maps" / "000001.safetensors"
    torn.write_bytes(b"left by a kill")  # of a record that was begun and is in no journal
    begun = tmp_path / "coarse" / ".begun"
    assert "000001" in begun.read_text()
    succeed(*draw, "--out", tmp_path / "coarse", "--shard", "1/2")
    succeed(*draw, "--out", tmp_path / "coarse", "--shard", "2/2")
    assert files(tmp_path / "coarse") == files(here / "coarse")
    refine = ("refine", "--in", here / "coarse", "--out", tmp_path / "final", *QUICK, "--maps")
    with monkeypatch.context() as patch:
        breaking(patch, 1)
        assert run(*refine).exit_code != 0
    succeed(*refine)
    assert files(tmp_path / "final") == files(here / "final")
    done = run(*draw[:-1], "and", "--out", tmp_path / "coarse")
    assert done.exit_code == 2 and "map_words" in done.stderr and "--overwrite starts over" in done.stderr
    (tmp_path / "coarse" / "maps" / "mine.txt").write_text("not of a run")
    plain = ("generate", "--prompts", here / "prompts.txt", *DRAW, "--out", tmp_path / "coarse", "--overwrite")
    succeed(*plain)
    assert os.listdir(tmp_path / "coarse" / "maps") == ["mine.txt"]


def test_damaged_maps_fail_their_record_alone(here: Path, tmp_path: Path) -> None:
    shutil.copytree(here / "coarse", tmp_path / "coarse")
    torn, other = (tmp_path / "coarse" / "maps" / f"00000{i}.safetensors" for i in range(2))
    torn.write_bytes(torn.read_bytes()[:-5])
    other.write_bytes(save({"0:10 a red ring": np.ones((16, 16), np.int32)}))
    done = run("refine", "--in", tmp_path / "coarse", "--out", tmp_path / "final", *QUICK, "--maps")
    assert done.exit_code == 3
    planned = [line["id"] for line in lines(here / "final") if "maps" in line]
    kinds = {line["id"]: [one["kind"] for one in line.get("failures", [])] for line in lines(tmp_path / "final")}
    assert kinds == {i: ["unreadable_maps"] if i in planned else [] for i in kinds}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--map-words", "and"), "--map-words says what else has maps: give --maps too"),
        (
            ("--maps", "--method", "structure", "--set", "structure.form=conjunction"),
            "structure.form=conjunction reads several texts at once, of which there is no one attention map",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(here: Path, tmp_path: Path, words: tuple[str, ...], complaint: str) -> None:
    done = run("generate", "--prompts", here / "prompts.txt", "--out", tmp_path / "out", *words)
    assert done.exit_code == 2 and complaint in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
