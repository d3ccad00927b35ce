"""A user's mistake is one line on stderr that names the place and the remedy, an exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Run = Callable[..., CompletedProcess[str]]

TAGGED = [
    {"text": "a red circle", "id": "0", "tags": [{"label": "circle", "confidence": 0.9}]},
    {"text": "a blue ring", "id": "1", "tags": [{"label": "ring", "confidence": 0.9}]},
]


def write(folder: Path, lines: Sequence[object]) -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "metadata.jsonl").write_text(text)
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    (folder / "empty.txt").write_text("\n")
    (folder / "prompts.txt").write_text("a red circle\n")
    (folder / "short.toml").write_text("[refine]\nmethod = 'modulation'\n[modulation]\ncross_weight = 1.0\n")
    (folder / "mine.toml").write_text(
        '[scorer]\nadapter = "realign_cli.models.language.rule_scorer:RuleScorer"\ntemper = 1\n'
    )
    write(folder / "tagged", TAGGED)
    return folder


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("tag --in nowhere", "nowhere: no such folder or file"),
        ("tag --in .", "no metadata.jsonl in this folder; give a folder that realign wrote"),
        (
            "tag",
            "no records: nothing is piped in, and none are in coarse/; 'realign generate --prompts prompts.txt --out",
        ),
        ("score --in -", "stdin: no records"),
        ("generate --prompts empty.txt --out new", "empty.txt: no prompts in this file; write one prompt a line"),
        ("generate --prompts prompts.txt", "images need a folder: give --out DIR"),
        ("score --in tagged --out tagged/.", "--in tagged lies in --out tagged; give --out another folder"),
        ("score --in tagged --out . --overwrite", "--in tagged lies in --out .; give --out another folder"),
        ("score --in tagged --out empty.txt", "cannot make the folder empty.txt"),
        ("score --in tagged --shard 3/2", "--shard 3/2: write i/n"),
        ("score --preset tini", "no such preset; did you mean 'tiny'?"),
        ("score --preset none.toml", "--preset none.toml: no such file"),
        ("score --in tagged --set scorer.chekpoint=x", "no such key; did you mean 'scorer.checkpoint'?"),
        (
            "score --in tagged --preset mine.toml",
            "preset 'mine': [scorer] adapter 'realign_cli.models.language.rule_scorer:Rule",
        ),
        (
            "refine --in tagged --out new --preset short.toml",
            "preset 'short': modulation.self_weight: Field required; ",
        ),
        (
            "demo --out new --prompts prompts.txt --preset short.toml",
            "preset 'short' has no [loop]; --preset tiny has every role",
        ),
        ("eval --in tagged --metrics clip,fdi", "--metrics fdi: no such metric in this preset; there are "),
        (
            "eval --in tagged --metrics oracle",
            "tagged: nothing can be measured; the first of 2: tagged/metadata.jsonl:1: record 0 names no image",
        ),
    ],
)
def test_one_line_that_names_the_remedy(realign: Run, here: Path, line: str, complaint: str) -> None:
    before = sorted(here.rglob("*"))
    command = line.split()
    done = realign(*command, cwd=here)
    assert done.returncode == (1 if "cannot" in complaint or "nothing can" in complaint else 2)
    assert done.stderr.startswith(f"realign {command[0]}: ") and done.stderr.count("\n") == 1
    assert complaint in done.stderr
    assert done.stdout == ""
    assert sorted(here.rglob("*")) == before


def test_unknown_words_on_the_command_line(realign: Run) -> None:
    for command in (
        ["tags"],
        ["tag", "--inn", "x"],
        ["refine", "--keep", "worst"],
        ["tag", "--device", "gpu"],
        ["generate"],
    ):
        done = realign(*command)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Traceback" not in done.stderr


def test_a_truncated_line_loses_nothing_before_it(realign: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "source", [*TAGGED, '{"text": "a blue ri'])
    command = ("score", "--in", "source", "--out", "scored", "--batch-size", 1)
    broken = realign(*command, cwd=tmp_path)
    assert broken.returncode == 2
    assert broken.stderr.startswith("realign score: source/metadata.jsonl:3: not a JSON record")
    assert [json.loads(line)["id"] for line in broken.stdout.splitlines()] == ["0", "1"]
    write(source, [*TAGGED, {**TAGGED[1], "id": "2"}])
    repaired = realign(*command, "--json", cwd=tmp_path)
    assert repaired.returncode == 0
    assert json.loads(repaired.stdout)["kept"] == 2
    assert len((tmp_path / "scored" / "metadata.jsonl").read_text().splitlines()) == 3


def test_a_missing_key_names_the_command_that_adds_it(realign: Run, tmp_path: Path) -> None:
    write(tmp_path / "source", [TAGGED[0], {"text": "a", "id": "1"}])
    done = realign("score", "--in", "source", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "realign score: source/metadata.jsonl:2: no 'tags'; run 'realign tag' first\n"


def test_records_that_fail_go_on_and_the_exit_code_tells(
    realign: Run, shell: Run, coarse: Path, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in (coarse / "metadata.jsonl").read_text().splitlines()]
    source = write(tmp_path / "source", [*lines[:3], {**lines[3], "file_name": "../source/000000.png"}])
    (source / "000000.png").write_bytes((coarse / "000000.png").read_bytes())
    (source / "000001.png").write_text("no image")
    done = shell("realign tag --in source | realign score --out scored --json", tmp_path)
    assert done.returncode == 3
    assert json.loads(done.stdout)["failed"] == 3
    out = [json.loads(line) for line in (tmp_path / "scored" / "metadata.jsonl").read_text().splitlines()]
    kinds = [[failure["kind"] for failure in record.get("failures", [])] for record in out]
    assert kinds == [[], ["unreadable_image"], ["missing_image"], ["bad_file_name"]]
    assert "objects" in out[0] and not any("tags" in record for record in out[1:])
    assert "source/metadata.jsonl:2: tag: " in done.stderr and "generate it again" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_one_line(shell: Run, here: Path) -> None:
    done = shell("realign score --in tagged > /dev/full", here)
    assert done.returncode == 1
    assert done.stderr == "realign score: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("line", ["--help", "score --help", "--version"])
def test_a_page_that_cannot_be_written_is_one_line(shell: Run, tmp_path: Path, line: str) -> None:
    done = shell(f"realign {line} > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "realign: cannot write to the standard output: No space left on device\n"


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_the_summary_is_json_where_colours_are_forced(
    realign: Run, here: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    done = realign("score", "--in", "tagged", "--out", "forced", "--json", cwd=here)
    shutil.rmtree(here / "forced")
    assert json.loads(done.stdout)["records"] == 2 and done.stderr == ""


def test_a_narrow_terminal_cuts_no_number(realign: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    done = realign("score", "--in", "tagged", "--out", "narrow", cwd=here)
    shown = realign("status", "narrow", cwd=here)
    shutil.rmtree(here / "narrow")
    assert "\u2026" not in done.stderr + shown.stdout
    assert done.stderr.splitlines()[1].split()[:4] == ["score", "2", "0", "0"]
    assert shown.stdout.splitlines()[1].split() == ["score", "1/1", "2", "0", "0"]


def test_quiet_and_json(realign: Run, here: Path) -> None:
    loud = realign("score", "--in", "tagged", cwd=here)
    assert loud.returncode == 0 and "score" in loud.stderr
    quiet = realign("score", "--in", "tagged", "-q", cwd=here)
    assert (quiet.stdout, quiet.stderr) == (loud.stdout, "")
    done = realign("score", "--in", "tagged", "--out", "summed", "--json", cwd=here)
    shutil.rmtree(here / "summed")
    summary = json.loads(done.stdout)  # and no records beside it
    assert (summary["command"], summary["records"], summary["failed"], done.stderr) == ("score", 2, 0, "")


@pytest.mark.parametrize("line", ["score --in tagged --json", "prompts shapes --json"])
def test_a_summary_is_not_mixed_with_what_stdout_is_for(realign: Run, here: Path, line: str) -> None:
    done = realign(*line.split(), cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--json writes the summary to stdout, in place of the " in done.stderr


def test_verbose_shows_where_an_error_comes_from(realign: Run, here: Path) -> None:
    done = realign("score", "--in", "nowhere", "-v", cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" in done.stderr and done.stderr.endswith("realign score: nowhere: no such folder or file\n")
    assert "Traceback" not in realign("score", "--in", "nowhere", cwd=here).stderr


def test_words_of_a_record_cannot_steer_the_terminal(realign: Run, here: Path) -> None:
    failure = {"stage": "tag", "kind": "odd", "message": "[bold]:cat:[/bold] \x1b[31m"}
    line = json.dumps({**TAGGED[0], "failures": [failure]})
    shown = realign("score", input=line, cwd=here)
    assert shown.returncode == 3
    assert "stdin:1: tag: [bold]:cat:[/bold] [31m\n" in shown.stderr
    summed = realign("score", "--out", "steered", "--json", input=line, cwd=here)
    shutil.rmtree(here / "steered")
    assert json.loads(summed.stdout)["failures"] == [f"stdin:1: tag: {failure['message']}"]


def test_colour_only_where_it_is_wanted() -> None:
    assert "\x1b[31m" in _on_a_terminal({"TERM": "xterm"})
    assert "\x1b[31m" not in _on_a_terminal({"TERM": "xterm", "NO_COLOR": "1"})


def _on_a_terminal(environment: dict[str, str]) -> str:
    """What a failing command shows on a terminal."""
    ours, theirs = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    command = [sys.executable, "-m", "realign_cli", "tag", "--in", "nowhere"]
    subprocess.run(command, stdin=subprocess.DEVNULL, stderr=theirs, env=inherited | environment, check=False)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    return shown
