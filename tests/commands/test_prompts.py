"""Prompt files keep their ids and pairs through generate, and come from a local file as well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from typer.testing import CliRunner

from realign_cli.app import app
from realign_cli.data.prompts import read_prompts
from realign_cli.tinyworld.scenes import held_out_prompts

Run = Callable[..., CompletedProcess[str]]


def run(*arguments: object) -> CompletedProcess[str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def test_shapes_to_a_pipe_or_a_file(tmp_path: Path) -> None:
    piped = run("prompts", "shapes", "-n", 3)
    written = run("prompts", "shapes", "-n", 3, "--out", tmp_path / "new" / "shapes.jsonl")
    assert (piped.returncode, written.returncode, written.stdout) == (0, 0, "")
    assert (tmp_path / "new" / "shapes.jsonl").read_text() == piped.stdout
    entries = list(read_prompts(tmp_path / "new" / "shapes.jsonl", 42))
    assert [entry.record.text for entry in entries] == held_out_prompts()[:3]
    assert [entry.record.id for entry in entries] == ["000000", "000001", "000002"]


def test_pairs_survive_the_prompt_file(tmp_path: Path) -> None:
    (tmp_path / "ABC-6K.txt").write_text("a red cat and a blue dog\na blue cat and a red dog\n")
    out = tmp_path / "abc.jsonl"
    assert run("prompts", "abc6k", "--in", tmp_path / "ABC-6K.txt", "--out", out).returncode == 0
    first, second = (entry.record for entry in read_prompts(out, 7))
    assert first.pair and second.pair and (first.pair.text, second.pair.text) == (second.text, first.text)
    assert (first.id, first.seed) == ("abc6k-0000a", 7)


def test_a_zip_of_captions(tmp_path: Path) -> None:
    import zipfile

    rows = [{"id": i, "image_id": i, "caption": f"caption {i}"} for i in range(5001)]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        file.writestr("annotations/captions_val2014.json", json.dumps({"annotations": rows}))
    done = run("prompts", "coco", "--in", tmp_path / "all.zip", "-n", 2)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["coco", "--all"], "--all is for cc500"),
        (["cc500", "--in", "none.txt"], "none.txt: No such file"),
        (["coco", "--in", "none.zip"], "none.zip: No such file"),
    ],
)
def test_one_line_that_names_the_remedy(arguments: list[str], complaint: str) -> None:
    done = run("prompts", *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert complaint in done.stderr
