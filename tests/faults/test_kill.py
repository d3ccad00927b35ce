"""SIGKILL anywhere in the life of a run, then the same command again: the bytes of a run that nothing disturbed.

For `train` see tests/commands/test_train.py.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path

import pytest
from faults.warm import QUICK, Warm
from support.runs import repeatable

pytestmark = pytest.mark.fault

RUNS = {
    "generate": [("generate", "--prompts", "prompts.txt", "--out", "generated", "--maps")],
    "caption-reward": [("caption-reward", "--in", "coarse", "--out", "captioned")],
    "select": [("select", "--in", "draws", "--out", "best")],
    "tag": [("tag", "--in", "coarse", "--out", "tagged")],
    "score": [("score", "--in", "tagged", "--out", "scored")],
    "segment": [("segment", "--in", "scored", "--out", "segmented")],
    "refine": [("refine", "--in", "segmented", "--out", "final", "--maps")],
    "loop": [("run", "--prompts", "prompts.txt", "--out", "looped", "--tries", "3")],
    "pipe": [("tag", "--in", "coarse"), ("score",), ("segment",), ("refine", "--out", "piped")],
    # Of folders that no other run fills: eval tells how long they took.
    "eval": [("eval", "--in", "draws", "--baseline", "coarse", "--out", "measured", "--cache", "cache")],
}


@pytest.fixture(scope="module")
def here(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs take place: reports tell the paths of images."""
    here = shutil.copytree(world, tmp_path_factory.mktemp("killed"), dirs_exist_ok=True)
    shutil.copytree(here / "coarse", here / "draws")
    lines = [json.loads(line) for line in (here / "draws" / "metadata.jsonl").read_text().splitlines()]
    draws = [
        {**line, "id": f"{line['id']}-{j}", "prompt_id": line["id"], "caption": {"text": "x", "reward": j / 2}}
        for line in lines
        for j in (1, 2)
    ]
    (here / "draws" / "metadata.jsonl").write_text("".join(json.dumps(draw) + "\n" for draw in draws))
    return here


@pytest.fixture(scope="module")
def undisturbed(warm: Warm, here: Path) -> dict[str, tuple[list[int], dict[str, bytes]]]:
    """Of each run the moments of its processes and the contents of its folder."""
    done = {}
    for name in RUNS:
        ended = warm.measured(pipe=commands(name), cwd=here, fills=[out(name), "cache"])
        assert set(ended.codes) == {0}, ended.stderr
        done[name] = ended.moments, repeatable(here / out(name))
    return done


def commands(name: str) -> list[tuple[str, ...]]:
    flags = QUICK if name != "eval" else QUICK[:3]
    return [(*command, *flags) for command in RUNS[name]]


def out(name: str) -> str:
    command = RUNS[name][-1]
    return command[command.index("--out") + 1]


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_ends_as_if_nothing_had_happened(
    warm: Warm,
    here: Path,
    undisturbed: dict[str, tuple[list[int], dict[str, bytes]]],
    runs: int,
    name: str,
) -> None:
    moments, expected = undisturbed[name]
    for i in range(runs):
        for folder in (out(name), "cache"):
            shutil.rmtree(here / folder, ignore_errors=True)
        victim = random.randrange(len(moments))
        at = int((i + random.random()) / runs * moments[victim])  # spread over the whole life
        where = f"process {victim} of {name} killed at moment {at} of {moments[victim]}"
        killed = warm(pipe=commands(name), cwd=here, victim=victim, at=at, signals=[signal.SIGKILL])
        assert killed.codes[victim] == -signal.SIGKILL, f"{where}: {killed}"
        again = warm(pipe=commands(name), cwd=here)
        assert set(again.codes) == {0}, f"{where}: {again.stderr}"
        assert repeatable(here / out(name)) == expected, where


def test_a_complete_folder_loses_nothing_to_a_pipe_that_breaks(warm: Warm, here: Path, runs: int) -> None:
    """The stage before is killed anywhere; the one behind it says so unless the last line feed had come through, and
    the same pipe ends as if nothing had been.
    """
    pipe = [
        ("tag", "--in", "coarse", "--batch-size", "1", "-q"),
        ("score", "--out", "behind", "--batch-size", "1", "-q"),
    ]
    undisturbed = warm.measured(pipe=pipe, cwd=here, fills=["behind"])
    moments, writes = undisturbed.moments[0], undisturbed.writes[0]
    assert writes == 4  # three records, and the line feed that ends the last
    whole = repeatable(here / "behind")
    assert whole["metadata.jsonl"].count(b"\n") == 3
    for i in range(2 * runs):
        at = int((i + random.random()) / (2 * runs) * moments)
        where = f"tag killed at moment {at} of {moments}"
        killed = warm(pipe=pipe, cwd=here, victim=0, at=at, signals=[signal.SIGKILL])
        assert killed.codes[0] == -signal.SIGKILL, f"{where}: {killed}"
        written = killed.writes[0]
        code, said = (2, "no records") if not written else (1, "ended early") if written < writes else (0, "")
        assert killed.codes[1] == code and said in killed.stderr, f"{where}: {killed}"
        assert repeatable(here / "behind")["metadata.jsonl"] == whole["metadata.jsonl"], where
        again = warm(pipe=pipe, cwd=here)
        assert set(again.codes) == {0}, f"{where}: {again.stderr}"
        assert repeatable(here / "behind") == whole, where


def test_a_run_that_overwrites_a_killed_one_leaves_nothing_of_it(
    warm: Warm, tmp_path: Path, world: Path, runs: int
) -> None:
    """Whenever the old run was killed, and whenever the new one is, which has other records."""
    source = [json.loads(line) for line in (world / "coarse" / "metadata.jsonl").read_text().splitlines()]
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        for line in source:
            shutil.copy(world / "coarse" / line["file_name"], tmp_path / name)
        lines = [json.dumps({**line, "id": f"{name}-{line['id']}", "tags": []}) + "\n" for line in source]
        (tmp_path / name / "metadata.jsonl").write_text("".join(lines))
    old = ("score", "--in", "old", "--out", "out", "--batch-size", "2", "-q")
    new = ("score", "--in", "new", "--out", "out", "--batch-size", "2", "-q", "--overwrite")
    moments = [warm.measured(*command, cwd=tmp_path, fills=["out"]).moments[0] for command in (old, new)]
    expected = repeatable(tmp_path / "out")
    points = 4 * runs
    for i in range(points):
        shutil.rmtree(tmp_path / "out")
        first, second = random.randrange(moments[0]), int((i + random.random()) / points * moments[1])
        where = f"killed at moment {first} of {moments[0]}, then {second} of {moments[1]}"
        warm(*old, cwd=tmp_path, at=first, signals=[signal.SIGKILL])
        warm(*new, cwd=tmp_path, at=second, signals=[signal.SIGKILL])
        again = warm(*new, cwd=tmp_path)
        assert again.code == 0, f"{where}: {again.stderr}"
        assert repeatable(tmp_path / "out") == expected, where
