"""Workers that share a folder make what one makes, byte for byte, even if they are killed on the way.

Real processes on the embedded models.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen

import psutil
import pytest
from support.runs import Run, product, succeed

from realign_cli.data.shards import WHOLE, Shard
from realign_cli.runs.lock import folder_lock

SLURM = Path(__file__).parents[2] / "examples" / "slurm_array.sbatch"


@pytest.fixture(scope="module")
def alone(realign: Run, coarse: Path) -> dict[str, dict[str, bytes]]:
    """What one worker makes of the prompts, by two commands."""
    succeed(realign("refine", "--in", "coarse", "--out", "final", cwd=coarse.parent))
    return {name: product(coarse.parent / name) for name in ("coarse", "final")}


def made(out: Path) -> dict[str, dict[str, bytes]]:
    return {name: product(out / name) for name in ("coarse", "final")}


@pytest.fixture
def started(coarse: Path) -> Iterator[Callable[..., Popen[str]]]:
    """Starts commands that are not waited for; none outlives its test."""
    processes = []

    def start(*command: object, **more: str) -> Popen[str]:
        pipe = subprocess.PIPE
        process = Popen(
            [*map(str, command)], cwd=coarse.parent, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **more}
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def until(happened: Callable[[], object], process: Popen[str]) -> None:
    while not happened():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def worker_of(folder: Path, shard: Shard) -> int | None:
    """The process that the lock names."""
    try:
        return int(json.loads((folder / f".lock{shard.suffix}").read_text())["pid"])
    except FileNotFoundError:
        return None


def test_shards_share_a_folder(realign: Run, coarse: Path) -> None:
    def work(part: int) -> None:
        command = ("generate", "--prompts", "prompts.txt", "--shard", f"{part}/2", "--out", "shared", "--json")
        done = succeed(realign(*command, cwd=coarse.parent))
        assert json.loads(done.stdout)["complete"] == (part == 1)

    work(2)
    status = realign("status", "shared", "--json", cwd=coarse.parent)
    assert status.returncode == 4
    (run,) = json.loads(status.stdout)
    assert [shard["left"] for shard in run["shards"]] == [4 - run["shards"][1]["done"], 0]
    unfinished = realign("refine", "--in", "shared", "--out", "none", cwd=coarse.parent)
    assert unfinished.returncode == 2
    assert "run its command again; 'realign status shared' tells what is left" in unfinished.stderr

    work(1)
    assert product(coarse.parent / "shared") == product(coarse)
    assert succeed(realign("status", "shared", cwd=coarse.parent)).stdout.split("\n")[1].split() == [
        *("generate", "1/1", "4", "0", "0")
    ]


def test_a_second_worker_is_refused(realign: Run, coarse: Path) -> None:
    command = ("generate", "--prompts", "prompts.txt", "--out", "taken")
    with folder_lock(coarse.parent / "taken", WHOLE):
        refused = realign(*command, cwd=coarse.parent)
    assert refused.returncode == 2
    assert refused.stderr == (
        f"realign generate: taken: process {os.getpid()} on {os.uname().nodename}, started "
        + time.strftime("%Y-%m-%d %H:%M", time.localtime(psutil.Process().create_time()))
        + ", is at work on this folder; wait for it, or stop it\n"
    )
    assert list((coarse.parent / "taken").iterdir()) == []


def test_only_what_failed_is_tried_again(realign: Run, coarse: Path) -> None:
    folder = coarse.parent / "holey"
    shutil.copytree(coarse, folder)
    (folder / "000001.png").unlink()
    command = ("tag", "--in", "holey", "--out", "retried", "--json")
    assert realign(*command, cwd=coarse.parent).returncode == 3
    assert realign("status", "retried", cwd=coarse.parent).returncode == 3
    again = realign(*command, cwd=coarse.parent)
    assert (again.returncode, json.loads(again.stdout)["kept"]) == (3, 4)

    shutil.copy(coarse / "000001.png", folder)
    done = succeed(realign(*command, "--retry-failed", cwd=coarse.parent))
    assert json.loads(done.stdout)["kept"] == 3
    succeed(realign("tag", "--in", "coarse", "--out", "never-failed", cwd=coarse.parent))
    assert product(coarse.parent / "retried") == product(coarse.parent / "never-failed")


def test_a_worker_that_is_killed_is_started_again(
    program: list[str], alone: dict[str, dict[str, bytes]], coarse: Path, started: Callable[..., Popen[str]]
) -> None:
    options = ("--prompts", "prompts.txt", "--out", "two", "--tries", 0, "--workers", 2, "--batch-size", 1)
    process = started(*program, "run", *options)
    folder, shard = coarse.parent / "two" / "coarse", Shard(1, 2)
    journal = folder / ".metadata.jsonl.part-1-of-2"
    until(lambda: worker_of(folder, shard), process)
    victim = worker_of(folder, shard)
    assert victim
    until(lambda: journal.exists() and journal.stat().st_size, process)
    os.kill(victim, signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "a worker was ended by SIGKILL" in stderr
    assert made(coarse.parent / "two") == alone


def test_workers_that_are_refused_are_not_started_again(realign: Run, coarse: Path) -> None:
    folder = coarse.parent / "busy" / "coarse"
    with folder_lock(folder, Shard(1, 2)), folder_lock(folder, Shard(2, 2)):
        done = realign("run", "--prompts", "prompts.txt", "--out", "busy", "--workers", 2, cwd=coarse.parent)
    assert done.returncode == 2
    lines = sorted(done.stderr.splitlines())
    assert len(lines) == 2
    for shard, line in zip(("1/2", "2/2"), lines, strict=True):
        assert f"is at work on shard {shard} of this folder; wait for it, or stop it" in line


def test_an_array_of_jobs(
    program: list[str],
    alone: dict[str, dict[str, bytes]],
    coarse: Path,
    tmp_path: Path,
    started: Callable[..., Popen[str]],
) -> None:
    """Task 1 is told to end, goes back into the queue, and finds the lock of its earlier try on another node."""
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    (tmp_path / "realign").write_text(f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n')
    for program in ("scontrol", "realign"):
        (tmp_path / program).chmod(0o755)
    out = coarse.parent / "array"
    slurm = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_COUNT": "2", "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def task(number: int, **more: str) -> Popen[str]:
        own = {**slurm, "SLURM_ARRAY_TASK_ID": str(number), **more}
        return started("bash", SLURM, "prompts.txt", "array", "--tries", "0", "--batch-size", "1", **own)

    first = task(1)
    until(lambda: worker_of(out / "coarse", Shard(1, 2)), first)
    first.terminate()
    assert first.wait() == 0
    assert (tmp_path / "asked").read_text() == "requeue 77_1\n"
    lock = out / "coarse" / ".lock-1-of-2"
    lock.write_text('{"pid": 1, "host": "node17", "started": 0.0}')

    for again in (task(1, SLURM_RESTART_COUNT="1"), task(2)):
        _, stderr = again.communicate()
        assert again.returncode == 0, stderr
    assert made(out) == alone


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'realign[ray]'")
def test_an_actor_that_is_killed_is_started_again(
    realign: Run, coarse: Path, started: Callable[..., Popen[str]]
) -> None:
    """The process that generates dies between the first image and the last, of a run that tries again."""
    run = ("run", "--prompts", "prompts.txt", "--tries", 2, "--batch-size", 1)
    succeed(realign(*run, "--out", "tried", cwd=coarse.parent))
    # Ray runs its workers as background jobs, which a busy computer never gets to.
    process = started(
        *(sys.executable, "-m", "realign_cli", *run, "--out", "rayed", "--engine", "ray"), RAY_worker_niceness="0"
    )
    folder = coarse.parent / "rayed" / "coarse"
    until(lambda: (folder / "000000.png").exists(), process)
    (generator,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.name().startswith("ray::_Actor")
    ]
    generator.kill()
    assert len((folder / ".metadata.jsonl.part").read_text().splitlines()) < 4
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert made(coarse.parent / "rayed") == made(coarse.parent / "tried")


def test_without_ray_its_extra_is_named(coarse: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; from realign_cli.app import app; app()"
    options = ("run", "--prompts", "prompts.txt", "--out", "none", "--engine", "ray")
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, cwd=coarse.parent)
    assert done.returncode == 2
    assert done.stderr == "realign run: --engine ray needs Ray: pip install 'realign[ray]'\n"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--out out --shard 1/2 --workers 2", "--shard makes this one worker of many"),
        ("--out out --shard 1/2 --eval", "--shard makes this one worker of many"),
        ("--out out --address auto", "--address names a Ray cluster: give --engine ray too"),
        ("--out out --shard 1/2 --overwrite", "--overwrite clears what all shards of out/coarse share"),
        ("--out out --overwrite --retry-failed", "--overwrite starts over and --retry-failed goes on"),
        ("--out out --tries 4 --keep best", "--keep chooses between two images; of --tries 4 the best is kept"),
        ("--retry-failed", "images need a folder: give --out DIR"),
    ],
)
def test_options_that_do_not_go_together(realign: Run, coarse: Path, options: str, complaint: str) -> None:
    done = realign("run", "--prompts", "prompts.txt", *options.split(), cwd=coarse.parent)
    assert done.returncode == 2
    assert complaint in done.stderr
