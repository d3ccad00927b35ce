"""Commands as they are typed, without --in: what is piped in is read, else the folder of the stage before.

Each runs in a folder of its own, with a terminal, the null device, nothing at all and a pipe as its standard input.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from PIL import Image

from realign_cli.tinyworld import scenes

Run = Callable[..., CompletedProcess[str]]

MAPS = ("caption-reward", "select", "tag", "score", "segment", "refine --out {kind}")
EVAL, EXPORT = "eval --metrics oracle --device cpu --json", "export t2i-compbench --out {kind}"
STATS = "eval stats --out {kind}.npz"
STDINS = ("terminal", "device", "closed", "pipe")
GENERATE = "'realign generate --prompts prompts.txt --out coarse/'"
REFINE = "'realign refine --in coarse/ --out final/'"


@pytest.fixture(scope="session")
def run(program: list[str]) -> Run:
    """Runs the program with a kind of standard input. It may not wait for what nobody types."""

    def run(line: str, kind: str, cwd: Path, piped: str) -> CompletedProcess[str]:
        command = [*program, *line.format(kind=kind).split()]
        if kind == "closed":
            command = ["sh", "-c", 'exec "$0" "$@" <&-', *command]
        ends = pty.openpty() if kind == "terminal" else ()
        stdin = {"input": piped} if kind == "pipe" else {"stdin": ends[1] if ends else subprocess.DEVNULL}
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, **stdin)
        for end in ends:
            os.close(end)
        return done

    return run


def records(folder: Path, ids: Iterable[str], *, failed: bool = False) -> str:
    """A folder of records, and the lines by which they go through a pipe."""
    folder.mkdir(parents=True)
    stream = scenes.scenes(1, held_out=True, count=2)
    lines: list[dict[str, object]] = []
    for record_id in ids:
        scene, name = next(stream), f"{record_id}.png"
        Image.fromarray(scenes.render(scene)).save(folder / name)
        lines.append({"id": record_id, "text": scene.caption, "file_name": name})
        if failed:
            lines[-1]["failures"] = [{"stage": "generate", "kind": "odd", "message": "no"}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return "".join(json.dumps(line | {"file_name": str(folder / str(line["file_name"]))}) + "\n" for line in lines)


@pytest.mark.parametrize("line", MAPS)
def test_a_stage_reads_what_is_piped_in_else_coarse(run: Run, tmp_path: Path, line: str) -> None:
    """Of records that had failed before, which pass through without a model."""
    piped = records(tmp_path / "elsewhere", ["piped"], failed=True)
    records(tmp_path / "here" / "coarse", ["kept"], failed=True)
    for kind in STDINS:
        done = run(line, kind, tmp_path / "here", piped)
        assert done.returncode == 3, done.stderr
        assert json.loads(done.stdout)["id"] == ("piped" if kind == "pipe" else "kept"), kind
        assert done.stderr.startswith("no --in: reading coarse/\n") == (kind != "pipe"), kind
        assert ("--baseline coarse" in done.stderr) == (line.startswith("refine") and kind != "pipe"), kind


@pytest.mark.parametrize("line", [EVAL, EXPORT, STATS], ids=["eval", "export", "stats"])
def test_a_judge_reads_what_is_piped_in_else_final_else_coarse(run: Run, tmp_path: Path, line: str) -> None:
    here = tmp_path / "here"
    piped = records(tmp_path / "elsewhere", ["a", "b"])
    records(here / "coarse", ["a", "b"])
    done = run(line, "closed", here, piped)
    assert (done.returncode, done.stderr.splitlines()[0]) == (0, "no --in: reading coarse/"), done.stderr
    records(here / "final", ["a", "b"])
    for kind in ("pipe",) if line == STATS else ("terminal", "device", "pipe"):
        done = run(line, kind, here, piped)
        assert done.returncode == 0, done.stderr
        if line == EVAL:
            report = json.loads(done.stdout)
            assert (report["in"], report.get("baseline")) == (("-", None) if kind == "pipe" else ("final", "coarse"))
        compared = ", with coarse/ as the baseline" if line == EVAL else ""
        assert done.stderr.startswith(f"no --in: reading final/{compared}\n") == (kind != "pipe"), kind


@pytest.mark.parametrize("line", [*MAPS, EVAL, EXPORT, STATS], ids=lambda line: line.split(" --")[0])
def test_where_there_is_nothing_one_line_names_what_makes_it(run: Run, tmp_path: Path, line: str) -> None:
    (tmp_path / "final").mkdir()  # an empty folder holds no records
    places, makers = ("coarse/", GENERATE) if line in MAPS else ("final/ or coarse/", f"{REFINE} or {GENERATE}")
    wanted = f"no records: nothing is piped in, and none are in {places}; {makers} makes them, or give --in\n"
    name = "eval stats" if line == STATS else line.split()[0]
    before = sorted(tmp_path.rglob("*"))
    for kind in STDINS[:3] if line in MAPS and line != "score" else STDINS:  # what reads a pipe is one thing
        done = run(line, kind, tmp_path, "")
        said = f"realign {name}: stdin: no records\n" if kind == "pipe" else f"realign {name}: {wanted}"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", said), kind
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name not in ("pipe", "samples")] == before


@pytest.mark.parametrize("line", MAPS, ids=lambda line: line.split(" --")[0])
def test_where_there_is_nothing_no_library_is_loaded(tmp_path: Path, line: str) -> None:
    code = f"""
import sys
from realign_cli.app import app
try:
    app({line.format(kind="out").split()!r})
finally:
    print(*{{name.split(".")[0] for name in sys.modules}})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, "no records" in done.stderr) == (2, True)
    loaded = set(done.stdout.split())
    assert "realign_cli" in loaded
    assert not loaded & {"torch", "numpy", "PIL", "pycocotools", "diffusers", "transformers"}


def test_what_is_given_is_read_and_nothing_is_said(realign: Run, tmp_path: Path) -> None:
    for name in ("coarse", "final", "mine"):
        records(tmp_path / name, [name], failed=True)
    done = realign("score", "--in", "mine", cwd=tmp_path)
    assert json.loads(done.stdout)["id"] == "mine" and "reading" not in done.stderr
    done = realign("score", "-q", cwd=tmp_path)
    assert json.loads(done.stdout)["id"] == "coarse" and "reading" not in done.stderr


@pytest.mark.parametrize("given", ["--in final", "--baseline mine"])
def test_a_baseline_is_chosen_only_where_nothing_is_given(run: Run, tmp_path: Path, given: str) -> None:
    for name in ("coarse", "final", "mine"):
        records(tmp_path / name, ["a"])
    report = json.loads(run(f"{EVAL} {given}", "device", tmp_path, "").stdout)
    assert (report["in"], report.get("baseline")) == ("final", "mine" if "mine" in given else None)


def test_an_interrupted_run_is_not_passed_over(realign: Run, tmp_path: Path) -> None:
    records(tmp_path / "coarse", ["kept"])
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / ".metadata.jsonl.part").write_text("")
    done = realign("eval", "--metrics", "oracle", cwd=tmp_path)
    assert done.returncode == 2
    assert "final: no metadata.jsonl in this folder; its run was interrupted" in done.stderr


def test_a_file_is_piped_in_too(shell: Run, tmp_path: Path) -> None:
    records(tmp_path / "coarse", ["kept"], failed=True)
    (tmp_path / "lines.jsonl").write_text(records(tmp_path / "elsewhere", ["filed"], failed=True))
    done = shell("realign score < lines.jsonl", tmp_path)
    assert json.loads(done.stdout)["id"] == "filed"
