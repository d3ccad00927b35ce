"""A run folder survives a kill, continues only with the same configuration, and clears only what realign made."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from realign_cli import presets
from realign_cli.data.records import METADATA, done_path, journal_path
from realign_cli.data.shards import WHOLE, Shard
from realign_cli.errors import RealignError, UsageError
from realign_cli.files import atomic
from realign_cli.records import Record, parse_line
from realign_cli.registry import Models
from realign_cli.runs.folder import RUN, RunFolder, contact_sheet_path, image_name, picture_path
from realign_cli.runs.lock import Holder

CONFIG = {"command": "tag", "settings": {"tagger": {"threshold": 0.5}}, "shape": (1, 2)}
A, B = Record(id="a", text="\u2028"), Record(id="b", text="b", objects=[])


def filled(path: Path) -> RunFolder:
    folder = RunFolder(path, CONFIG)
    folder.add(A)
    folder.add(B)
    return folder


def test_complete_follows_the_order_of_the_input(tmp_path: Path) -> None:
    filled(tmp_path).complete(["b", "a"])
    lines = (tmp_path / METADATA).read_text().split("\n")
    assert [parse_line(line, "") for line in lines[:2]] == [B, A] and lines[2:] == [""]
    assert sorted(path.name for path in tmp_path.iterdir()) == [METADATA, RUN]
    assert RunFolder(tmp_path, CONFIG).kept == {"a": A, "b": B}


def test_a_torn_line_is_dropped_and_the_rest_kept(tmp_path: Path) -> None:
    filled(tmp_path).flush()
    journal = journal_path(tmp_path)
    journal.write_bytes(journal.read_bytes()[:-5])
    folder = RunFolder(tmp_path, CONFIG)
    assert folder.kept == {"a": A}
    folder.add(B)
    folder.flush()
    folder.close()
    assert RunFolder(tmp_path, CONFIG).kept == {"a": A, "b": B}


def test_what_is_added_is_read_back_from_the_disk(tmp_path: Path) -> None:
    filled(tmp_path).flush()
    folder = RunFolder(tmp_path, CONFIG)
    newer = B.replace(text="é", failures=[])
    folder.add(newer)
    assert folder.kept == {"a": A, "b": B}  # not before it is on the disk
    folder.flush()
    assert folder.kept == {"a": A, "b": newer} and len(folder.kept) == 2
    last = Record(id="c", text="c")
    folder.add(last)
    folder.complete(["c", "b", "a"])
    lines = (tmp_path / METADATA).read_text(encoding="utf-8").split("\n")
    assert [parse_line(line, "") for line in lines[:3]] == [last, newer, A]


def test_run_json_says_how_and_with_what(tmp_path: Path) -> None:
    RunFolder(tmp_path, CONFIG)
    run = json.loads((tmp_path / RUN).read_text())
    assert run["config"] == {**CONFIG, "shape": [1, 2]}
    assert {"realign", "python", "torch", "diffusers"} <= run["versions"].keys()
    assert isinstance(run["argv"], list)


def test_another_configuration_is_refused_by_key(tmp_path: Path) -> None:
    filled(tmp_path).complete(["a", "b"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError) as error:
        RunFolder(tmp_path, {**CONFIG, "settings": {"tagger": {"threshold": 0.6}}, "shard": "1/2"})
    assert "settings.tagger.threshold (0.5 before, 0.6 now)" in str(error.value)
    assert "shard (None before, '1/2' now)" in str(error.value)
    assert "--overwrite starts over" in str(error.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overwrite_starts_over(tmp_path: Path) -> None:
    filled(tmp_path).complete(["a", "b"])
    (tmp_path / "pictures").mkdir()
    assert RunFolder(tmp_path, {"command": "score"}, overwrite=True).kept == {}
    assert json.loads((tmp_path / RUN).read_text())["config"] == {"command": "score"}
    assert not (tmp_path / "pictures").exists()
    assert RunFolder(tmp_path / "new", CONFIG, overwrite=True).kept == {}


def test_overwrite_leaves_the_files_of_others(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    ours = [tmp_path / image_name("a"), picture_path(tmp_path, "b", "strip"), contact_sheet_path(tmp_path)]
    theirs = [tmp_path / "notes.txt", tmp_path / "holiday.png", contact_sheet_path(tmp_path).with_name("holiday.png")]
    for path in ours + theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    folder.complete(["a", "b"])
    with (tmp_path / METADATA).open("a") as file:
        file.write("damaged\n")
    RunFolder(tmp_path, {"command": "score"}, overwrite=True).complete([])
    left = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*theirs, tmp_path / METADATA, tmp_path / RUN}
    assert (tmp_path / METADATA).read_text() == ""


def test_a_folder_of_another_origin_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / METADATA).write_text("precious")
    with pytest.raises(UsageError, match="records of another origin"):
        RunFolder(tmp_path, CONFIG)
    with pytest.raises(UsageError, match="only clears folders that realign made"):
        RunFolder(tmp_path, CONFIG, overwrite=True)
    assert (tmp_path / METADATA).read_text() == "precious"


def test_damaged_run_json(tmp_path: Path) -> None:
    for text in ("{", "{}", "[]"):
        (tmp_path / RUN).write_text(text)
        with pytest.raises(UsageError, match=r"run\.json: not readable; --overwrite starts over"):
            RunFolder(tmp_path, CONFIG)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(RealignError, match="cannot make the folder"):
            RunFolder(path, CONFIG)


class TestShards:
    """Records a..h, of which each worker has its own, in one folder."""

    RECORDS = {i: Record(id=i, text=i) for i in "hbagcfed"}

    def work(self, path: Path, shard: Shard, ids: str = "hbagcfed", **options: Any) -> bool:
        folder = RunFolder(path, CONFIG, shard=shard, **options)
        for i in ids:
            if shard.owns(i) and i not in folder.kept:
                folder.add(self.RECORDS[i])
        return folder.complete(list(ids))

    def whole(self, path: Path) -> bytes:
        assert self.work(path, WHOLE)
        return (path / METADATA).read_bytes()

    @pytest.mark.parametrize("order", list(permutations((1, 2, 3))))
    def test_their_union_is_the_whole_in_any_order(self, tmp_path: Path, order: tuple[int, ...]) -> None:
        finished: list[int] = []
        for n, index in enumerate(order, 1):
            complete = self.work(tmp_path / "shared", Shard(index, 3), finish=lambda _, i=index: finished.append(i))
            assert complete == (n == 3)
        assert finished == [order[-1]]
        assert (tmp_path / "shared" / METADATA).read_bytes() == self.whole(tmp_path / "whole")
        assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == [METADATA, RUN]

    def test_all_at_once(self, tmp_path: Path) -> None:
        whole = self.whole(tmp_path / "whole")
        for attempt in range(20):
            path = tmp_path / str(attempt)
            with ThreadPoolExecutor(4) as pool:
                assert any(pool.map(lambda i, path=path: self.work(path, Shard(i, 4)), range(1, 5)))
            assert (path / METADATA).read_bytes() == whole
            assert sorted(one.name for one in path.iterdir()) == [METADATA, RUN]

    def test_a_journal_goes_on_in_another_cut(self, tmp_path: Path) -> None:
        self.work(tmp_path / "shared", Shard(2, 3))
        folder = RunFolder(tmp_path / "shared", CONFIG, shard=Shard(1, 3))
        first = next(i for i in self.RECORDS if Shard(1, 3).owns(i))
        folder.add(self.RECORDS[first])
        folder.flush()  # and is killed here
        again = RunFolder(tmp_path / "shared", CONFIG, shard=Shard(1, 2))
        assert again.kept.keys() == {first, *(i for i in self.RECORDS if Shard(2, 3).owns(i))}
        again.close()
        for index in (1, 2):
            self.work(tmp_path / "shared", Shard(index, 2))
        assert (tmp_path / "shared" / METADATA).read_bytes() == self.whole(tmp_path / "whole")
        assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == [METADATA, RUN]

    def test_a_journal_of_another_worker_is_not_touched(self, tmp_path: Path) -> None:
        self.work(tmp_path, Shard(1, 2))
        theirs = journal_path(tmp_path, Shard(2, 2))
        theirs.write_text('{"text": "torn')
        (staging := atomic.temporary(tmp_path / "h.png")).touch()
        self.work(tmp_path, Shard(1, 2))
        assert theirs.read_text() == '{"text": "torn' and staging.exists()

    def test_a_worker_that_knows_its_own_shard_only(self, tmp_path: Path) -> None:
        """As behind a pipe: the order of the input is lost, so it is that of the ids."""
        for shard in (Shard(2, 2), Shard(1, 2)):
            self.work(tmp_path, shard, "".join(i for i in "hbagcfed" if shard.owns(i)))
        lines = (tmp_path / METADATA).read_text().splitlines()
        assert [parse_line(line, "").id for line in lines] == list("abcdefgh")

    def test_a_shard_again_in_a_complete_folder(self, tmp_path: Path) -> None:
        whole = self.whole(tmp_path)
        assert self.work(tmp_path, Shard(1, 2))
        assert (tmp_path / METADATA).read_bytes() == whole
        assert sorted(path.name for path in tmp_path.iterdir()) == [METADATA, RUN]

    def test_an_input_that_has_grown_waits_for_all(self, tmp_path: Path) -> None:
        before = "hb"
        assert self.work(tmp_path, WHOLE, before)
        assert not self.work(tmp_path, Shard(1, 2))
        assert len((tmp_path / METADATA).read_text().splitlines()) == 2
        assert self.work(tmp_path, Shard(2, 2))
        assert (tmp_path / METADATA).read_bytes() == self.whole(tmp_path / "whole")


def test_a_folder_that_names_the_modules_of_adapters_goes_on(tmp_path: Path) -> None:
    """As version 0.1.0 left it: where an adapter of ours lies decides nothing, which class it is does."""
    folder = tmp_path / "scored"
    shutil.copytree(Path(__file__).parent / "made_by_0_1_0", folder)
    before = json.loads((folder / RUN).read_text())["config"]
    assert before["settings"]["scorer"]["adapter"] == "realign_cli.models.rule_scorer:RuleScorer"
    now = {"command": "score", **Models(presets.load("tiny")).describe(["scorer"])}
    assert list(RunFolder(folder, now).kept) == ["0", "1"]
    for other in ("LanguageModelScorer", "mine.rule_scorer:RuleScorer"):
        now["settings"]["scorer"]["adapter"] = other
        with pytest.raises(UsageError, match=r"settings\.scorer\.adapter \('RuleScorer' before, "):
            RunFolder(folder, now)


def test_a_second_writer_is_refused_by_the_journal(tmp_path: Path) -> None:
    """Even where somebody has deleted the lock."""
    with RunFolder.open(tmp_path, CONFIG) as folder:
        folder.add(A)
        folder.flush()
        (tmp_path / ".lock").unlink()
        with pytest.raises(UsageError, match="another process is writing here"), RunFolder.open(tmp_path, CONFIG):
            pass
        folder.add(B)
        folder.flush()
    assert RunFolder(tmp_path, CONFIG).kept == {"a": A, "b": B}


def test_nothing_is_added_to_what_another_wrote(tmp_path: Path) -> None:
    """As one on another host might, where a file system has its locks for each host alone."""
    folder = filled(tmp_path)
    folder.flush()
    journal = journal_path(tmp_path)
    with journal.open("ab") as file:
        file.write(b'{"text": "c", "id": "c"}\n')
    before = journal.read_bytes()
    folder.add(Record(id="d", text="d"))
    with pytest.raises(RealignError, match="another process has written here too, so nothing more is added"):
        folder.complete(["a", "b", "d"])
    assert journal.read_bytes() == before and not (tmp_path / METADATA).exists()
    folder.close()
    folder = RunFolder(tmp_path, CONFIG)
    journal.unlink()  # the other is through
    with pytest.raises(RealignError, match="another process"):
        folder.complete(["a", "b", "c"])


@pytest.mark.parametrize("left", [".realign-run.json-1a2b.tmp", "notes.txt"])
def test_overwriting_goes_on_where_it_was_killed(tmp_path: Path, left: str) -> None:
    """Between the old run.json and the new."""
    (tmp_path / ".lock").write_text("")
    (tmp_path / left).write_text("{")
    assert RunFolder(tmp_path, CONFIG, overwrite=True).kept == {}
    assert (tmp_path / left).exists() == (left == "notes.txt")


def test_pictures_of_a_longer_id_are_not_taken_for_ones_own(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    folder.begin([Record(id="a-b", text="a")])
    for record_id, kind in (("a", "strip"), ("a-b", "strip"), ("a-b", "mask-0"), ("a-b-c", "mask-0")):
        path = picture_path(tmp_path, record_id, kind)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    folder.close()
    RunFolder(tmp_path, CONFIG).close()
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"a-strip.png", "a-b-c-mask-0.png"}


def test_draws_are_of_the_shard_of_their_prompt(tmp_path: Path) -> None:
    """Also those that were begun only: no worker deletes the image that another one makes."""
    records = [
        Record(id=f"p{i}-{j}" if j else f"p{i}", text="a", prompt_id=f"p{i}") for i in range(8) for j in range(4)
    ]
    four, two = Shard.all(4), Shard.all(2)
    for shard in four:
        with RunFolder.open(tmp_path, CONFIG, shard=shard) as folder:
            folder.begin(record for record in records if shard.owns(record.prompt_key))
    for record in records:
        (tmp_path / image_name(record.id)).touch()
    with RunFolder.open(tmp_path, CONFIG, shard=two[0]) as folder:
        others = {image_name(record.id) for record in records if two[1].owns(record.prompt_key)}
        assert {path.name for path in tmp_path.glob("*.png")} == others
        for record in (one for one in records if two[0].owns(one.prompt_key)):
            folder.add(record)
        assert not folder.complete([record.id for record in records])
    done = [parse_line(line, "") for line in done_path(tmp_path, two[0]).read_text().splitlines()]
    assert done == [record for record in records if two[0].owns(record.prompt_key)] and 0 < len(done) < len(records)


def test_a_new_cut_leaves_nothing_of_the_old(tmp_path: Path) -> None:
    """Locks, temporary files and images of four workers that were killed."""
    ids = [f"{i:02d}" for i in range(12)]
    for index in (1, 2, 3, 4):
        shard = Shard(index, 4)
        own = [i for i in ids if shard.owns(i)]
        folder = RunFolder(tmp_path, CONFIG, shard=shard)
        for i in own[:-1]:
            folder.add(Record(id=i, text=i))
        folder.flush()
        folder.begin([Record(id=own[-1], text="a")])
        (tmp_path / "pictures").mkdir(exist_ok=True)
        for path in (tmp_path / image_name(own[-1]), picture_path(tmp_path, own[-1], "mask-1")):
            atomic.temporary(path).touch()
        atomic.temporary(tmp_path / f".lock{shard.suffix}-1a2b").touch()
        (tmp_path / f".lock{shard.suffix}").write_text(json.dumps({**asdict(Holder.me()), "pid": 1}))
        folder.close()
    for index in (1, 2):
        shard = Shard(index, 2)
        with RunFolder.open(tmp_path, CONFIG, shard=shard) as folder:
            for i in ids:
                if shard.owns(i) and i not in folder.kept:
                    folder.add(Record(id=i, text=i))
            folder.complete(ids)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {METADATA, RUN, "pictures"}
