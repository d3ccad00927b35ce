"""`generate --method` and `refine --method dense`: plain stays as it was, and the others hold to what runs hold to.

Real processes on the embedded models.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.runs import Finished, Run, records, records_and_images, succeed

from realign_cli import presets

PROMPTS = "a red circle and a blue square\na green ring above a yellow triangle\na pink cross\nleft of the\n"
QUICK = ("--set", "generator.steps=2", "-q")
METHODS = ["structure", "attend", "syngen", "predicated"]


def images(folder: Path) -> list[bytes]:
    return [(folder / line["file_name"]).read_bytes() for line in records(folder)]


def settings(folder: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((folder / "run.json").read_text())["config"]["settings"]  # type: ignore[no-any-return]


def generate(realign: Run, cwd: Path, out: str, *more: object) -> Finished:
    return realign("generate", "--prompts", "prompts.txt", "--out", out, *QUICK, *more, cwd=cwd)


@pytest.fixture(scope="module")
def here(realign: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which each method has drawn into a folder of its name; read it only."""
    folder = tmp_path_factory.mktemp("methods")
    (folder / "prompts.txt").write_text(PROMPTS)
    for method in METHODS:
        succeed(generate(realign, folder, method, "--method", method))
    succeed(generate(realign, folder, "plain"))
    return folder


def test_plain_is_what_it_was(realign: Run, here: Path) -> None:
    """Records and settings do not speak of methods."""
    assert all(line.keys() == {"file_name", "text", "id", "seed", "cost"} for line in records(here / "plain"))
    assert settings(here / "plain").keys() == {"generator"}
    succeed(generate(realign, here, "plain", "--method", "plain"))  # goes on in the same folder


@pytest.mark.parametrize("method", METHODS)
def test_records_and_settings_tell_the_method(here: Path, method: str) -> None:
    drawn = records(here / method)
    assert [line["method"] for line in drawn] == [method] * 4
    assert [line["phrases"] for line in drawn] == [
        ["a red circle", "a blue square"],
        ["a green ring", "a yellow triangle"],
        ["a pink cross"],
        [],
    ]
    told = settings(here / method)
    assert told.keys() == {"generator", "generate", "parser", method}
    assert told["generate"] == {"method": method} and told[method] == presets.load("tiny").section(method)
    plain = images(here / "plain")
    changed = [one != other for one, other in zip(images(here / method), plain, strict=True)]
    assert changed[:2] == [True, True] and changed[3] is False
    if method == "structure":  # for which a prompt that is a phrase is itself
        assert changed[2] is False
    spent = {"passes": 1, "steps": 2} if method == "structure" else {"passes": 1.25, "steps": 2.5}
    assert [line["cost"] for line in drawn] == [spent] * 3 + [{"passes": 1, "steps": 2}]


@pytest.mark.parametrize("method", METHODS)
def test_shards_and_what_was_interrupted_give_the_same_bytes(realign: Run, here: Path, method: str) -> None:
    for index in (2, 1):
        succeed(generate(realign, here, f"{method}-of-2", "--method", method, "--shard", f"{index}/2"))
    assert records_and_images(here / f"{method}-of-2") == records_and_images(here / method)
    succeed(generate(realign, here, f"{method}-again", "--method", method, "--shard", "1/2", "--batch-size", 1))
    succeed(generate(realign, here, f"{method}-again", "--method", method, "--shard", "1/2"))
    succeed(generate(realign, here, f"{method}-again", "--method", method, "--shard", "2/2", "--batch-size", 3))
    assert records_and_images(here / f"{method}-again") == records_and_images(here / method)


def test_the_preset_chooses_the_method(realign: Run, here: Path) -> None:
    succeed(generate(realign, here, "chosen", "--set", "generate.method=syngen"))
    assert records_and_images(here / "chosen") == records_and_images(here / "syngen")
    done = generate(realign, here, "chosen", "--method", "syngen", "--set", "syngen.step_size=2")
    assert done.returncode == 2 and "settings.syngen.step_size (1.0 before, 2.0 now); --overwrite" in done.stderr


def test_run_draws_by_the_method_of_the_preset(realign: Run, here: Path) -> None:
    words = ("run", "--prompts", "prompts.txt", *QUICK, "--tries", "0", "--set", "generate.method=attend")
    succeed(realign(*words, "--out", "whole", cwd=here))
    assert images(here / "whole" / "coarse") == images(here / "attend")
    assert all(line["method"] == "attend" for line in records(here / "whole" / "final"))
    done = realign(*words, "--out", "tried", "--tries", 2, cwd=here)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "further tries are plain: give --tries 0, or --set generate.method=plain" in done.stderr


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("--method", "paint"), "'paint' is not one of 'plain', 'structure', 'attend', 'syngen', 'predicated'"),
        (
            ("--method", "attend", "--set", "attend.map_level=3"),
            "attend.map_level is 3: the generator reads the prompt at levels 0, 1, 2",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(realign: Run, here: Path, more: tuple[str, ...], complaint: str) -> None:
    done = generate(realign, here, "refused", *more)
    assert done.returncode == 2 and complaint in " ".join(done.stderr.replace("│", " ").split())


def test_the_documentation_s_example(shell: Run, tmp_path: Path) -> None:
    page = (Path(presets.__file__).parents[2] / "docs" / "paper.md").read_text()
    (block,) = re.findall(r"(?:^ {4}realign .*\n)+", page, flags=re.MULTILINE)
    (tmp_path / "prompts.txt").write_text("a red circle and a blue square\n")
    done = succeed(shell(f"set -e\n{block}", tmp_path))
    assert "cost (in): 1.25 passes of the generator, 25.00 steps per image" in done.stdout
    assert (tmp_path / "syngen" / "000000.png").read_bytes() != (tmp_path / "plain" / "000000.png").read_bytes()


def test_refining_by_densediffusion(realign: Run, coarse: Path, tmp_path: Path) -> None:
    succeed(realign("refine", "--in", coarse, "--out", "dense", "--method", "dense", "-q", cwd=tmp_path))
    succeed(realign("refine", "--in", coarse, "--out", "paper", "--method", "modulation", "-q", cwd=tmp_path))
    dense, paper = tmp_path / "dense", tmp_path / "paper"
    assert settings(dense)["dense"] == presets.load("tiny").section("dense")
    assert settings(dense)["refine"] == {"method": "dense"} and "modulation" not in settings(dense)
    assert [line["objects"] for line in records(dense)] == [line["objects"] for line in records(paper)]
    assert any(line["refine"]["kept"] == "final" for line in records(dense)) and images(dense) != images(paper)
    for index in (1, 2):
        words = ("--in", coarse, "--out", "shards", "--method", "dense", "-q", "--shard", f"{index}/2")
        succeed(realign("refine", *words, cwd=tmp_path))
    assert records_and_images(tmp_path / "shards") == records_and_images(dense)
