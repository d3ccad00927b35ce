"""`realign bench`: which commands make which method's images, and the whole of it on two prompts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import typer

from realign_cli import presets
from realign_cli.app import app
from realign_cli.commands._methods import GIVEN, METHODS, chosen, with_models
from realign_cli.errors import UsageError
from realign_cli.registry import Models

Run = Callable[..., CompletedProcess[str]]


def folders(*names: str) -> list[str]:
    """The folders that the steps of methods fill, each once."""
    return list(dict.fromkeys(step.out for name in names for step in METHODS[name].steps))


def test_what_methods_share_is_made_once() -> None:
    found = ["plain", "plain-tags", "plain-objects", "plain-masks"]
    assert folders("plain", "dense", "realigndiff") == [*found, "dense", "realigndiff"]
    assert folders("promptist", "loop") == ["promptist-prompts", "promptist", "loop"]
    assert folders("best-of-2") == ["best-of-2-draws", "best-of-2-captions", "best-of-2"]
    outs = [step.out for method in METHODS.values() for step in method.steps]
    steps = {step for method in METHODS.values() for step in method.steps}
    assert len(steps) == len(set(outs)), "two commands fill one folder"


def test_steps_are_commands_of_this_program_with_options_that_it_has(tmp_path: Path) -> None:
    program = typer.main.get_command(app)
    for step in {step for method in METHODS.values() for step in method.steps}:
        name, *words = step.command(tmp_path, tmp_path / "prompts.txt", 3)
        command = program.get_command(None, name)  # type: ignore[attr-defined]
        context = command.make_context(name, words)
        assert context.params["out"] == tmp_path / step.out
        assert context.params.get("seed", 3) == 3, "a seed of its own"


def test_presets_name_methods_and_sets_that_there_are() -> None:
    for name in ("tiny", "sd15"):
        settings = Models(presets.load(name)).benching
        known, without = chosen(settings.methods, with_models({}, settings.notes))
        assert next(iter(known)) == "plain" and without == list(GIVEN) and set(settings.notes) <= set(METHODS)
    assert known["realigndiff"].note == METHODS["realigndiff"].note


def test_models_are_methods(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"config": {"train": {"reward": "clip=1.0"}}}')
    known = with_models({"refl": tmp_path, "other": tmp_path / "none"}, {"refl": "and more"})
    found, without = chosen(["plain", "refl", "plain"], known)
    assert list(found) == ["plain", "refl"] and without == []
    assert found["refl"].note == "trained by the reward clip=1.0; and more"
    assert known["other"].note == "a trained model; nothing says by which reward"
    (step,) = found["refl"].steps
    assert step.words[-2:] == ("--model", str(tmp_path))
    with pytest.raises(UsageError, match=re.escape("--methods attent: no such method; did you mean 'attend'?")):
        chosen(["attent"], known)


def test_bench(realign: Run, tmp_path: Path) -> None:
    """By a job each, one of two methods is made and the other fails; what is made is judged, told, and not made again
    until its folder is deleted.
    """
    words = (
        "bench",
        "--methods",
        "plain,refl,structure",
        "-n",
        2,
        "--seeds",
        "5",
        "--metrics",
        "fid,oracle",
        "--out",
        "out",
    )
    words += ("--set", "generator.steps=1", "--set", "structure.form=odd")
    out, run = tmp_path / "out", tmp_path / "out" / "shapes-5"
    done = realign(*words, "--shard", "1/2", cwd=tmp_path)
    assert done.returncode == 0 and "shard 1/2 is made" in done.stderr, done.stderr
    assert not done.stdout and not (out / "table.json").exists()
    account = json.loads((run / "steps" / "plain.json").read_text())
    assert realign(*words, "--shard", "2/2", cwd=tmp_path).returncode == 1
    done = realign(*words, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "refl: left out; give --model refl=DIR" in done.stderr
    assert re.search(r"shapes-5 structure failed: structure: .*structure\.form", " ".join(done.stderr.split()))
    (ranking, *_) = json.loads((out / "table.json").read_text())["shapes"]
    (plain,) = ranking["standings"]
    assert (ranking["n"], plain["system"], plain["passes"]) == (2, "plain", 1.0)
    assert json.loads((run / "steps" / "plain.json").read_text()) == account
    assert plain["fid"] == json.loads((run / "evals" / "plain" / "metrics.json").read_text())["fid"]["in"]["fid"] > 0
    assert plain["seconds"] == pytest.approx(account["seconds"] / 2) and plain["memory"] == account["memory"] > 1e7
    assert "| seconds | GB | FID |" in (out / "table.md").read_text() and r"\midrule" in (out / "table.tex").read_text()
    assert (out / "shapes.png").stat().st_size > 1000 and "<html" in (run / "report.html").read_text()[:200]
    assert (run / "evals" / "plain" / "scores.jsonl").is_file()

    image = next((run / "plain").glob("*.png")).read_bytes()
    done = realign(*words, "--json", cwd=tmp_path)
    assert done.returncode == 1 and json.loads((run / "steps" / "plain.json").read_text()) == account
    told = json.loads(done.stdout)
    assert told["rankings"]["shapes"] == json.loads((out / "table.json").read_text())["shapes"]
    assert list(told["failed"]) == ["shapes-5 structure"]
    shutil.rmtree(run / "plain")
    assert realign(*words, "--workers", 2, cwd=tmp_path).returncode == 1
    assert next((run / "plain").glob("*.png")).read_bytes() == image
    assert json.loads((run / "steps" / "plain.json").read_text()) != account

    done = realign(*words, "-n", 3, cwd=tmp_path)
    assert done.returncode == 2 and "out was made of other prompts than these; give another --out" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--methods", "plane"), "--methods plane: no such method; did you mean 'plain'?"),
        (("--seeds", "4,x"), "--seeds 4,x: whole numbers, such as 42,43"),
        (("--model", "runs/refl"), "--model runs/refl: write NAME=DIR"),
        (("--model", "refl=nowhere"), "--model nowhere: neither"),
        (("--data", "nowhere.txt"), "--data nowhere.txt: no such file, and the sets are coco, abc6k, cc500, shapes"),
        (("--metrics", "fid"), "--metrics fid is of a whole set and ranks no prompts: name another metric too"),
        (("--shard", "1/2", "--workers", "2"), "--shard makes this one worker of many: --workers and --engine do not"),
        (("--address", "auto"), "--address names a Ray cluster: give --engine ray too"),
    ],
)
def test_what_makes_no_sense_is_refused(realign: Run, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    done = realign("bench", "--out", "out", "-q", *words, cwd=tmp_path)
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_shard_of_fewer_methods_than_shards_may_have_none(realign: Run, tmp_path: Path) -> None:
    words = ("bench", "--methods", "plain", "-n", 1, "--metrics", "oracle", "--out", "out")
    done = realign(*words, "--shard", "2/2", cwd=tmp_path)
    assert done.returncode == 0 and "shard 2/2 is made" in done.stderr, done.stderr
    assert not (tmp_path / "out" / "shapes-42").exists()


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'realign[ray]'")
def test_steps_on_a_ray_cluster(realign: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")  # a busy computer never gets to background jobs
    words = ("bench", "--methods", "plain,promptist,structure", "-n", 1, "--metrics", "oracle", "-q")
    settings = ("--set", "generator.steps=1", "--set", "structure.form=odd")
    done = realign(*words, *settings, "--out", "out", "--engine", "ray", "--workers", 2, cwd=tmp_path)
    assert done.returncode == 1 and "structure.form" in done.stderr, done.stderr
    (ranking, *_) = json.loads((tmp_path / "out" / "table.json").read_text())["shapes"]
    assert {one["system"] for one in ranking["standings"]} == {"plain", "promptist"}
    assert all(one["seconds"] > 0 and one["memory"] > 1e7 for one in ranking["standings"])
