"""A folder, or a shard of it, has one worker at a time; only a lock whose process is certainly gone is taken over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from realign_cli.data.shards import WHOLE, Shard
from realign_cli.errors import RealignError, UsageError
from realign_cli.files import atomic
from realign_cli.runs.lock import Holder, folder_lock, holders

LOCK = ".lock"


def leave(folder: Path, holder: Holder, shard: Shard = WHOLE) -> Path:
    """The lock that a process killed at work leaves."""
    path = folder / f"{LOCK}{shard.suffix}"
    path.write_text(json.dumps(asdict(holder)))
    return path


@pytest.fixture
def killed() -> Holder:
    """A process of this computer that is gone."""
    code = "import json; from realign_cli.runs.lock import Holder; print(json.dumps(vars(Holder.me())))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return Holder(**json.loads(done.stdout))


def test_a_second_worker_is_refused_in_one_line(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        with pytest.raises(UsageError) as error, folder_lock(tmp_path):
            pass
        assert f"{tmp_path}: process {os.getpid()} on {Holder.me().host}, started 20" in str(error.value)
        assert str(error.value).endswith("is at work on this folder; wait for it, or stop it")
    assert list(tmp_path.iterdir()) == []
    with folder_lock(tmp_path):
        assert holders(tmp_path) == {WHOLE: Holder.me()}


def test_the_lock_goes_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), folder_lock(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_each_shard_has_its_own(tmp_path: Path) -> None:
    with folder_lock(tmp_path, Shard(1, 2)), folder_lock(tmp_path, Shard(2, 2)):
        assert set(holders(tmp_path)) == {Shard(1, 2), Shard(2, 2)}
        with pytest.raises(UsageError, match="at work on shard 2/2 of this folder"), folder_lock(tmp_path, Shard(2, 2)):
            pass


def test_shards_of_another_cut_would_overlap(tmp_path: Path) -> None:
    with folder_lock(tmp_path, Shard(1, 2)):
        for other in (WHOLE, Shard(3, 3)):
            with pytest.raises(UsageError, match="at work on shard 1/2 of this folder"), folder_lock(tmp_path, other):
                pass
        assert [path.name for path in tmp_path.iterdir()] == [".lock-1-of-2"]


def test_what_a_killed_process_held_is_free(tmp_path: Path, killed: Holder) -> None:
    leave(tmp_path, killed)
    leave(tmp_path, killed, Shard(1, 2))
    assert holders(tmp_path) == {}
    with folder_lock(tmp_path):
        assert set(holders(tmp_path)) == {WHOLE}


def test_what_a_killed_process_had_half_written_goes_with_the_whole_folder(tmp_path: Path) -> None:
    ours, of_others = (atomic.temporary(folder / "a.png") for folder in (tmp_path, tmp_path / "below"))
    of_others.parent.mkdir()
    for path in (ours, of_others):
        path.touch()
    with folder_lock(tmp_path, Shard(1, 2)):
        assert ours.exists()
    with folder_lock(tmp_path):
        assert not ours.exists() and of_others.exists()


def test_a_number_that_another_process_has_now(tmp_path: Path) -> None:
    leave(tmp_path, replace(Holder.me(), started=Holder.me().started - 60))
    with folder_lock(tmp_path):
        pass


def test_another_host_is_not_judged(tmp_path: Path, killed: Holder) -> None:
    path = leave(tmp_path, replace(killed, host="node17"))
    with pytest.raises(UsageError, match=f"on node17, .*; if it no longer runs, delete {path}"), folder_lock(tmp_path):
        pass
    path.write_text("")  # as a file system without hard links may show it for a moment
    with pytest.raises(UsageError, match=f"an unknown host.*delete {path}"), folder_lock(tmp_path):
        pass
    path.unlink()
    with folder_lock(tmp_path):
        pass


def test_of_many_that_find_a_dead_lock_one_takes_it(tmp_path: Path, killed: Holder) -> None:
    def attempt(_: int) -> bool:
        try:
            taken = folder_lock(tmp_path)
            taken.__enter__()
        except UsageError:
            return False
        winners.append(taken)  # holds it to the end
        return True

    for _ in range(20):
        winners: list[object] = []
        leave(tmp_path, killed)
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(attempt, range(8))) == 1
        (tmp_path / LOCK).unlink()


def test_a_lock_where_no_folder_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RealignError, match="cannot make the folder"), folder_lock(tmp_path / "file" / "folder"):
        pass


@pytest.mark.parametrize("links", [True, False])
def test_one_of_many_creates_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "file"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: atomic.create_exclusive(path, f"{i}" * 1000), range(8)))
    assert made.count(True) == 1
    assert path.read_text() == f"{made.index(True)}" * 1000
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(RealignError, match=f"cannot write {tmp_path}/none/file \\(4 bytes\\): No such"):
        atomic.create_exclusive(tmp_path / "none" / "file", "text")


def test_a_clock_that_is_set_frees_no_lock(tmp_path: Path) -> None:
    """Nor does anything else that the file says of a process which holds it."""
    with folder_lock(tmp_path):
        for holder in (replace(Holder.me(), started=Holder.me().started - 3600), replace(Holder.me(), pid=2**22 + 1)):
            leave(tmp_path, holder)
            assert holders(tmp_path) == {WHOLE: holder}
            with (
                pytest.raises(UsageError, match=f"process {holder.pid} .*; wait for it, or stop it"),
                folder_lock(tmp_path),
            ):
                pass


ATTEMPT = """
import sys
from pathlib import Path
from realign_cli.errors import UsageError
from realign_cli.runs.lock import folder_lock
try:
    with folder_lock(Path(sys.argv[1])):
        pass
except UsageError as error:
    sys.exit(f"refused: {error}")
"""


def test_another_container_frees_no_lock(tmp_path: Path) -> None:
    """Processes there have other numbers, under the same name of the host."""
    command = ["unshare", "--pid", "--fork", "--mount-proc"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespace of processes can be made here: {error}")
    attempt = [*command, sys.executable, "-c", ATTEMPT, str(tmp_path)]
    with folder_lock(tmp_path):
        done = subprocess.run(attempt, capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.startswith("refused: "), done
        assert holders(tmp_path) == {WHOLE: Holder.me()}
    assert subprocess.run(attempt, capture_output=True, text=True).returncode == 0


def test_a_lock_is_free_once_its_process_is_killed(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from realign_cli.runs.lock import folder_lock\n"
    code += "with folder_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        assert [holder.pid for holder in holders(tmp_path).values()] == [process.pid]
        with pytest.raises(UsageError, match=f"process {process.pid} "), folder_lock(tmp_path):
            pass
        process.kill()
        process.wait()
        assert holders(tmp_path) == {} and (tmp_path / LOCK).exists()
        with folder_lock(tmp_path):
            assert holders(tmp_path) == {WHOLE: Holder.me()}


def test_to_look_at_a_lock_turns_nobody_away(tmp_path: Path) -> None:
    """However many look while others come and go."""
    busy = True

    def look(_: int) -> None:
        while busy:
            holders(tmp_path)

    with ThreadPoolExecutor(4) as pool:
        looking = pool.map(look, range(4))
        try:
            for _ in range(200):
                with folder_lock(tmp_path):
                    pass
        finally:
            busy = False
        list(looking)


def test_dead_locks_of_another_cut_are_removed(tmp_path: Path, killed: Holder) -> None:
    leave(tmp_path, killed, Shard(1, 3))
    leave(tmp_path, replace(killed, host="node17"), Shard(2, 2))
    with folder_lock(tmp_path, Shard(1, 2)):
        assert {path.name for path in tmp_path.iterdir()} == {".lock-1-of-2", ".lock-2-of-2"}
    with (
        pytest.raises(UsageError, match=r"on node17, .* shard 2/2 of this folder; if it no longer runs"),
        folder_lock(tmp_path),
    ):
        pass


def test_the_lock_of_another_process_is_left(tmp_path: Path) -> None:
    """Where somebody deleted this one's while it was at work."""
    with folder_lock(tmp_path):
        (tmp_path / LOCK).unlink()
        leave(tmp_path, Holder.me())
    assert (tmp_path / LOCK).exists()
