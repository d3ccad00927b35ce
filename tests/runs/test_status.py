"""`status` counts what is done, failed and left by shard, whatever state the workers have left the folder in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from realign_cli.data.shards import WHOLE, Shard
from realign_cli.errors import UsageError
from realign_cli.records import Failure, Record
from realign_cli.runs.folder import RUN, RunFolder
from realign_cli.runs.lock import Holder, folder_lock
from realign_cli.runs.status import lines, status

IDS = [f"{i:06d}" for i in range(10)]
ONE, TWO = Shard(1, 2), Shard(2, 2)
OWN = {shard: [i for i in IDS if shard.owns(i)] for shard in (WHOLE, ONE, TWO)}


def begin(path: Path, shard: Shard, ids: Iterable[str], *, failed: Iterable[str] = (), known: bool = True) -> RunFolder:
    """A worker that has finished these records."""
    folder = RunFolder(path, {"command": "tag"}, shard=shard, sizes=shard.sizes(IDS) if known else None)
    for i in ids:
        failures = [Failure(stage="tag", kind="missing_image", message="gone")] if i in failed else []
        folder.add(Record(id=i, text="a", failures=failures))
    folder.flush()
    return folder


def counts(path: Path) -> list[tuple[str, int, int, int | None]]:
    (run,) = status(path)
    return [(str(part.shard), part.done, part.failed, part.left) for part in run.parts]


def test_shards_on_their_way(tmp_path: Path) -> None:
    first, second = len(OWN[ONE]), len(OWN[TWO])
    assert first > 2 and second > 2
    with folder_lock(tmp_path, ONE):
        begin(tmp_path, ONE, OWN[ONE][:2], failed=OWN[ONE][:1])
        begin(tmp_path, TWO, OWN[TWO]).complete(IDS)
        assert counts(tmp_path) == [("1/2", 1, 1, first - 2), ("2/2", second, 0, 0)]
        (run,) = status(tmp_path)
        assert not run.complete
        assert [part.holder for part in run.parts] == [Holder.me(), None]
        assert run.failures == {("tag", "missing_image", False): 1}
    assert lines(tmp_path) == 2 + second
    begin(tmp_path, ONE, OWN[ONE][2:]).complete(IDS)
    assert counts(tmp_path) == [("1/1", 9, 1, 0)]
    assert status(tmp_path)[0].complete


def test_draws_count_for_the_shard_of_their_prompt(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {"command": "tag"}, shard=ONE, sizes=ONE.sizes([i for i in IDS for _ in range(3)]))
    with folder_lock(tmp_path, ONE):
        for i in OWN[ONE]:
            for j in range(3):
                folder.add(Record(id=f"{i}-{j}", text="a", prompt_id=i))
        folder.flush()
        assert counts(tmp_path) == [("1/2", 3 * len(OWN[ONE]), 0, 0), ("2/2", 0, 0, 3 * len(OWN[TWO]))]


def test_one_worker_that_was_killed(tmp_path: Path) -> None:
    begin(tmp_path, WHOLE, IDS[:3])
    assert counts(tmp_path) == [("1/1", 3, 0, 7)]
    assert not status(tmp_path)[0].complete


def test_nobody_knows_how_many_come_through_a_pipe(tmp_path: Path) -> None:
    folder = begin(tmp_path, WHOLE, IDS, known=False)
    assert counts(tmp_path) == [("1/1", 10, 0, None)]
    folder.complete(IDS)
    assert counts(tmp_path) == [("1/1", 10, 0, 0)]


def test_going_on_in_another_cut(tmp_path: Path) -> None:
    """How many records the new shards have was not written down, how many there are in all was."""
    begin(tmp_path, ONE, OWN[ONE])
    (tmp_path / ".metadata.jsonl.part-1-of-2").rename(tmp_path / ".metadata.jsonl.part")
    assert counts(tmp_path) == [("1/1", len(OWN[ONE]), 0, len(OWN[TWO]))]


def test_the_folders_of_a_run_and_no_training(tmp_path: Path) -> None:
    for name in ("coarse", "final"):
        begin(tmp_path / name, WHOLE, IDS).complete(IDS)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / RUN).write_text(json.dumps({"config": {"command": "train"}}))
    assert [(run.folder.name, run.complete) for run in status(tmp_path)] == [("coarse", True), ("final", True)]


def test_a_run_whose_second_half_has_not_begun(tmp_path: Path) -> None:
    begin(tmp_path / "coarse", WHOLE, IDS).complete(IDS)
    (tmp_path / "final").mkdir()
    assert [(run.folder.name, run.complete) for run in status(tmp_path)] == [("coarse", True), ("final", False)]
    assert counts(tmp_path / "coarse") == [("1/1", 10, 0, 0)]


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run of records here"):
        status(tmp_path)
    (tmp_path / RUN).write_text("{}")
    with pytest.raises(UsageError, match=r"not readable"):
        status(tmp_path)
