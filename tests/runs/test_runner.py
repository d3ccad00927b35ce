"""The runner of map stages: every record comes out once, in order, whatever fails, and what is finished is kept."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from realign_cli.data.images import open_image
from realign_cli.data.records import METADATA, Entry, journal_path, read_records
from realign_cli.errors import RealignError, RecordError, UsageError
from realign_cli.files import atomic
from realign_cli.records import Record, Tag
from realign_cli.runs.folder import RunFolder
from realign_cli.runs.runner import run_map
from realign_cli.runs.times import TIMES, seconds_per_image
from realign_cli.stages.base import Item, Outcome

if TYPE_CHECKING:
    from realign_cli.console import Summary


class Grey:
    """Makes an image of the id's number, and a picture of it."""

    name, requires, needs_image, sections = "grey", {}, False, ()

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def is_done(self, record: Record) -> bool:
        return bool(record.file_name)

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        self.batches.append([item.record.id for item in items])
        images = [Image.new("RGB", (2, 2), (int(item.record.id),) * 3) for item in items]
        return [Outcome(image=image, pictures={"copy": image.copy}) for image in images]


class Shade:
    """Tags an image with its shade; cannot do black."""

    name, requires, needs_image, sections = "shade", {}, True, ()

    def is_done(self, record: Record) -> bool:
        return record.tags is not None

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        return [self.shade(item) for item in items]

    def shade(self, item: Item) -> Outcome | RecordError:
        assert item.image is not None
        value = item.image.getpixel((0, 0))[0]
        return Outcome({"tags": [Tag(label=str(value), confidence=1.0)]}) if value else RecordError("dark", "is black")


class Count:
    """Adds a key of its own; needs tags."""

    name, requires, needs_image, sections = "count", {"tags": "shade"}, False, ()

    def is_done(self, record: Record) -> bool:
        return False

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        return [Outcome({"of_mine": len(item.record.tags or [])}) for item in items]


def entries(*ids: str) -> list[Entry]:
    return [Entry(Record(id=i, text="a"), f"prompts:{n}") for n, i in enumerate(ids, 1)]


def run(
    source: Iterable[Entry],
    *stages: object,
    out: Path | None = None,
    batch_size: int = 2,
    retry: bool = False,
    read_ahead: bool = False,
    final: bool = True,
    echo: bool = True,
) -> tuple[Summary, list[dict[str, object]]]:
    """The summary, and the records that went into the pipe."""
    stdout, sys.stdout = sys.stdout, io.StringIO()
    try:
        with RunFolder.open(out, {}) if out else nullcontext() as folder:
            summary = run_map(
                source,
                stages,  # type: ignore[arg-type]
                out=folder,
                batch_size=batch_size,
                retry=retry,
                read_ahead=read_ahead,
                final=final,
                quiet=True,
                echo=echo,
            )
        return summary, [json.loads(line) for line in sys.stdout.getvalue().splitlines()]
    finally:
        sys.stdout = stdout


def test_images_pictures_and_records(tmp_path: Path) -> None:
    summary, piped = run(entries("5", "3", "4"), Grey(), out=tmp_path)
    kept = list(read_records(str(tmp_path)))
    assert [entry.record.id for entry in kept] == ["5", "3", "4"]
    assert [entry.record.file_name for entry in kept] == ["5.png", "3.png", "4.png"]
    assert [record["file_name"] for record in piped] == [str(tmp_path / name) for name in ("5.png", "3.png", "4.png")]
    for name in ("3.png", "pictures/3-copy.png"):
        assert Image.open(tmp_path / name).getpixel((0, 0)) == (3, 3, 3)
    assert (summary.records, summary.kept, summary.failed) == (3, 0, 0)


def test_stages_follow_each_other_and_skip_what_is_done(tmp_path: Path) -> None:
    run(entries("1", "2"), Grey(), out=tmp_path)
    first, second = read_records(str(tmp_path))
    tagged = Entry(first.record.replace(tags=[]), first.place, first.base)
    _, piped = run([tagged, second], Shade(), Count())
    assert [(record["tags"], record["of_mine"]) for record in piped] == [
        ([], 0),
        ([{"label": "2", "confidence": 1.0}], 1),
    ]


def test_an_image_is_read_once_for_all_stages(tmp_path: Path) -> None:
    seen: list[Image.Image | None] = []

    class Look(Shade):
        def shade(self, item: Item) -> Outcome:
            seen.append(item.image)
            return Outcome()

    run(entries("1"), Grey(), out=tmp_path)
    run(read_records(str(tmp_path)), Look(), Look())
    assert seen[0] is seen[1] is not None


@pytest.mark.parametrize("ahead", [True, False])
def test_images_of_the_next_batch_are_read_while_a_stage_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    run(entries("1", "2"), Grey(), out=tmp_path)
    opened = threading.Event()

    def opening(path: Path) -> Image.Image:
        image = open_image(path)
        if path.name == "2.png":
            opened.set()
        return image

    monkeypatch.setattr("realign_cli.runs.runner.open_image", opening)

    class Slow(Shade):
        def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
            if items[0].record.id == "1":
                assert opened.wait(60 if ahead else 0.1) is ahead
                (tmp_path / "2.png").unlink()
            return super().__call__(items)

    summary, _ = run(list(read_records(str(tmp_path))), Slow(), batch_size=1, read_ahead=ahead)
    assert summary.failed == (0 if ahead else 1)  # a missing image


def test_a_batch_is_written_while_a_stage_works_on_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    working = threading.Event()
    write_png = atomic.write_png

    def writing(path: Path, image: Image.Image) -> None:
        assert working.wait(60), "the stage is not given the next batch before this one is written"
        write_png(path, image)

    monkeypatch.setattr("realign_cli.files.atomic.write_png", writing)

    class Next(Grey):
        def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
            if items[0].record.id == "2":
                working.set()
            return super().__call__(items)

    summary, _ = run(entries("3", "2", "1"), Next(), out=tmp_path, batch_size=1, echo=False)
    assert summary.records == 3
    assert [entry.record.id for entry in read_records(str(tmp_path))] == ["3", "2", "1"]


def test_what_cannot_be_written_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def writing(path: Path, image: Image.Image) -> None:
        raise RealignError(f"cannot write {path.name}")

    stage = Grey()
    with monkeypatch.context() as patch:
        patch.setattr("realign_cli.files.atomic.write_png", writing)
        with pytest.raises(RealignError, match=r"cannot write 1\.png"):
            run(entries(*"1234"), stage, out=tmp_path, batch_size=1, echo=False)
    assert stage.batches == [["1"], ["2"]]  # one ahead of what is written
    summary, _ = run(entries(*"1234"), Grey(), out=tmp_path, batch_size=1)
    assert (summary.records, summary.kept) == (4, 0)


def test_what_is_wrong_ahead_waits_for_its_turn(tmp_path: Path) -> None:
    def source() -> Iterator[Entry]:
        yield from entries("1", "2")
        raise UsageError("prompts:3: not a record")

    with pytest.raises(UsageError, match="prompts:3"):
        run(source(), Grey(), out=tmp_path, batch_size=1, read_ahead=True)
    assert [json.loads(line)["id"] for line in journal_path(tmp_path).read_text().splitlines()] == ["1", "2"]


def test_a_failed_record_goes_on_untouched(tmp_path: Path) -> None:
    run(entries("1", "0", "2"), Grey(), out=tmp_path)
    (tmp_path / "2.png").write_text("no image")
    summary, piped = run(read_records(str(tmp_path)), Shade(), Count(), batch_size=3)
    assert (summary.records, summary.failed) == (3, 2)
    assert piped[0]["of_mine"] == 1
    assert piped[1]["failures"] == [{"stage": "shade", "kind": "dark", "message": "is black"}]
    assert [failure["kind"] for failure in piped[2]["failures"]] == ["unreadable_image"]  # type: ignore[attr-defined]
    assert all("of_mine" not in record for record in piped[1:])
    assert summary.failures[0] == f"{tmp_path / METADATA}:2: shade: is black"


def test_failed_records_are_kept_with_their_images(tmp_path: Path) -> None:
    run(entries("0", "1"), Grey(), out=tmp_path / "a")
    (tmp_path / "a" / "1.png").unlink()
    run(read_records(str(tmp_path / "a")), Shade(), out=tmp_path / "b")
    black, gone = read_records(str(tmp_path / "b"))
    assert [failure.kind for failure in (*black.record.failures, *gone.record.failures)] == ["dark", "missing_image"]
    assert (tmp_path / "b" / black.record.file_name).read_bytes() == (tmp_path / "a" / "0.png").read_bytes()
    assert gone.record.file_name == ""


def test_a_missing_key_names_place_and_remedy() -> None:
    with pytest.raises(UsageError, match=r"prompts:1: no 'tags'; run 'realign shade' first"):
        run(entries("1"), Count())


def test_an_interrupted_run_sees_the_same_batches(tmp_path: Path) -> None:
    """A batch is computed whole again, though only what is missing is written."""
    folder = RunFolder(tmp_path, {})
    folder.add(Record(id="1", text="a", of_mine="kept"))
    folder.flush()
    folder.close()
    grey = Grey()
    summary, piped = run(entries("1", "2", "3"), grey, out=tmp_path)
    assert grey.batches == [["1", "2"], ["3"]]
    assert [record.get("of_mine") for record in piped] == ["kept", None, None]
    assert (summary.records, summary.kept) == (3, 1)
    again = Grey()
    summary, _ = run(entries("1", "2", "3"), again, out=tmp_path)
    assert (again.batches, summary.kept) == ([], 3)


def test_only_what_failed_is_tried_again(tmp_path: Path) -> None:
    """A record that failed here, one that got by in another way, and none that failed before it came here."""

    class Moody(Count):
        requires: dict[str, str] = {}

        def __init__(self, well: bool) -> None:
            self.well, self.asked = well, []

        def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
            self.asked += [item.record.id for item in items]
            return [self.outcome(item.record.id) for item in items]

        def outcome(self, record_id: str) -> Outcome | RecordError:
            error = RecordError("mood", "not now")
            if record_id == "1" and not self.well:
                return error
            return Outcome({"of_mine": 1}, recovered=error if record_id == "2" and not self.well else None)

    broken = {"stage": "tag", "kind": "dark", "message": "is black"}
    source = [
        *entries("1", "2", "3"),
        Entry(Record.model_validate({"id": "4", "text": "a", "failures": [broken]}), "p:4"),
    ]
    summary, _ = run(source, Moody(False), out=tmp_path, batch_size=3)
    assert summary.failed == 3
    summary, piped = run(source, moody := Moody(True), out=tmp_path, batch_size=3, retry=True)
    assert moody.asked == ["1", "2"]
    assert (summary.kept, summary.failed) == (1, 1)
    assert [record.get("of_mine") for record in piped] == [1, 1, 1, None]
    assert [record.get("failures", []) for record in piped] == [[], [], [], [broken]]
    assert [entry.record.id for entry in read_records(str(tmp_path))] == ["1", "2", "3", "4"]


def test_continuing_with_more_and_with_fewer_records(tmp_path: Path) -> None:
    run(entries("1", "2"), Grey(), out=tmp_path)
    run(entries("3", "1"), Grey(), out=tmp_path)
    assert [entry.record.id for entry in read_records(str(tmp_path))] == ["3", "1"]


def test_another_record_under_a_known_id_is_refused(tmp_path: Path) -> None:
    run(entries("1"), Grey(), out=tmp_path)
    with pytest.raises(UsageError, match=r"prompts:1: .* holds another record '1' \(text differ\); --overwrite"):
        run([Entry(Record(id="1", text="b"), "prompts:1")], Grey(), out=tmp_path)


def test_input_whose_key_the_stage_completed_is_no_other_record(tmp_path: Path) -> None:
    """As segment completes the objects of score."""
    source = [
        Entry(Record.model_validate({"id": "1", "text": "a", "tags": [{"label": "b", "confidence": 1.0}]}), "p:1")
    ]

    class Complete(Grey):
        def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
            return [Outcome({"tags": [Tag(label="b", confidence=1.0, box=[1, 2])]}) for _ in items]

    run(source, Complete(), out=tmp_path)
    summary, _ = run(source, Complete(), out=tmp_path)
    assert summary.kept == 1


class Guess(Count):
    """Tags in another way than it was asked to, unless it is told to do it right."""

    name, requires = "guess", {}

    def __init__(self, right: bool = False) -> None:
        self.right = right

    def is_done(self, record: Record) -> bool:
        return record.tags is not None

    def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
        error = None if self.right else RecordError("asleep", "the expert sleeps")
        return [Outcome({"tags": [Tag(label="a", confidence=1.0)]}, recovered=error) for _ in items]


def test_what_a_stage_recovered_from_is_told_by_its_own_run_alone(tmp_path: Path) -> None:
    summary, (line,) = run(entries("1"), Guess())
    failure = {"stage": "guess", "kind": "asleep", "message": "the expert sleeps", "recovered": True}
    assert line["failures"] == [failure]
    assert (summary.failed, summary.failures) == (1, ["prompts:1: guess: the expert sleeps"])
    guessed = [Entry(Record.model_validate(line), "p:1")]
    summary, (later,) = run(guessed, Guess(), Count())  # guess is done
    assert (later["of_mine"], later["failures"]) == (1, [failure])
    assert (summary.failed, summary.failures) == (0, [])
    summary, _ = run(entries("1"), Guess(), Count(), out=tmp_path)
    again, _ = run(entries("1"), Guess(), Count(), out=tmp_path)
    assert (summary.failed, again.failed, again.kept) == (1, 1, 1)


@pytest.mark.parametrize("right", [False, True])
def test_a_stage_that_runs_again_takes_back_what_it_said(right: bool) -> None:
    _, (line,) = run(entries("1"), Guess())
    summary, (again,) = run([Entry(Record.model_validate(line), "p:1")], Guess(right))
    assert again["failures"] == ([] if right else line["failures"])
    assert summary.failed == (not right)


def test_a_record_that_fails_after_recovering_stops() -> None:
    class Break(Count):
        name = "break"

        def __call__(self, items: Sequence[Item]) -> list[Outcome | RecordError]:
            return [RecordError("broken", "it broke") for _ in items]

    summary, (line,) = run(entries("1"), Guess(), Break(), Count())
    assert [failure["kind"] for failure in line["failures"]] == ["asleep", "broken"]  # type: ignore[attr-defined]
    assert "of_mine" not in line and len(summary.failures) == 2


def test_no_image_is_shared_with_the_folder_it_came_from(tmp_path: Path) -> None:
    """An edit in place, as of `mogrify`, changes what the user edits and nothing else."""
    run(entries("1"), Grey(), out=tmp_path / "a")
    run(read_records(str(tmp_path / "a")), Shade(), out=tmp_path / "b")
    before = (tmp_path / "b" / "1.png").read_bytes()
    (tmp_path / "a" / "1.png").write_bytes(b"edited")
    assert (tmp_path / "b" / "1.png").read_bytes() == before


def test_a_journal_names_what_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File and folder of an image are made to survive a power cut before its record is."""
    run(entries("1", "2"), Grey(), out=tmp_path / "a")
    synced: list[str] = []
    fsync = os.fsync

    def syncing(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append(path.name if path.is_file() else f"{path.name}/ with {sorted(map(str, image_names(path)))}")

    def image_names(folder: Path) -> list[str]:
        return [path.name for path in folder.glob("*.png")]

    monkeypatch.setattr(os, "fsync", syncing)
    run(read_records(str(tmp_path / "a")), Shade(), out=tmp_path / "b", batch_size=1)
    lines = [at for at, name in enumerate(synced) if name == ".metadata.jsonl.part"]
    assert len(lines) == 2
    for line, number, names in zip(lines, "12", (["1.png"], ["1.png", "2.png"]), strict=True):
        assert synced.index(f".realign-{number}.png.tmp") < synced.index(f"b/ with {names}") < line
    # The journal goes only when the names of the records' file survive.
    assert lines[-1] < synced.index(".realign-metadata.jsonl.tmp") < len(synced) - 1 - synced[::-1].index(synced[-1])
    assert synced[-1].startswith("b/")


@pytest.mark.parametrize("complete", [True, False])
def test_an_image_that_is_gone_is_made_again(tmp_path: Path, complete: bool) -> None:
    source = entries("1", "2", "3") if complete else [*entries("1", "2"), Entry(Record(id="x", text="a"), "p:3")]
    if complete:
        run(source, Grey(), out=tmp_path, batch_size=1)
    else:
        with pytest.raises(ValueError):  # x is no number
            run(source, Grey(), out=tmp_path, batch_size=1)
    before = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").unlink()
    again = Grey()
    summary, _ = run(entries("1", "2"), again, out=tmp_path, batch_size=1)
    assert (again.batches, summary.kept) == ([["2"]], 1)
    assert (tmp_path / "2.png").read_bytes() == before


class Note(Count):
    """Adds a key and looks at no image."""

    requires: dict[str, str] = {}


def test_an_image_that_cannot_be_copied_is_a_failure_and_tried_again(tmp_path: Path) -> None:
    run(entries("1", "2"), Grey(), out=tmp_path / "a")
    image = tmp_path / "a" / "2.png"
    image.rename(tmp_path / "elsewhere.png")
    summary, (_, failed) = run(read_records(str(tmp_path / "a")), Note(), out=tmp_path / "b")
    assert (summary.failed, failed["file_name"]) == (1, "")
    assert [(one["stage"], one["kind"]) for one in failed["failures"]] == [("count", "missing_image")]  # type: ignore[attr-defined]
    assert f"{image}: no such image" in summary.failures[0]
    (tmp_path / "elsewhere.png").rename(image)
    summary, piped = run(read_records(str(tmp_path / "a")), Note(), out=tmp_path / "b")  # the same again
    assert (summary.failed, "failures" in piped[1]) == (0, False)
    assert (tmp_path / "b" / "2.png").read_bytes() == image.read_bytes()


def test_what_the_system_says_of_an_image_is_in_the_record(tmp_path: Path) -> None:
    name = f"/{'x' * 300}.png"
    source = [Entry(Record(id="1", text="a", file_name=name), "stdin:1")]
    summary, (line,) = run(source, Note(), out=tmp_path)
    assert summary.failed == 1
    (failure,) = line["failures"]  # type: ignore[misc]
    assert failure["kind"] == "unreadable_image" and failure["message"].endswith(
        "cannot be copied (File name too long)"
    )


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_none_loses_nothing(tmp_path: Path, size: int) -> None:
    run(entries("1", "2"), Grey(), out=tmp_path)
    before = (tmp_path / METADATA).read_bytes()
    with pytest.raises(UsageError, match="give batch_size in the preset 1 or more"):
        run(entries("1", "2"), Grey(), out=tmp_path, batch_size=size)
    assert (tmp_path / METADATA).read_bytes() == before


def test_what_a_pipe_does_not_bring_stays(tmp_path: Path) -> None:
    """It may have been lost on the way; a folder or a file is seen whole, and says which records there are."""
    run(entries("1", "2", "3", "4"), Grey(), out=tmp_path)
    summary, _ = run(entries("5", "3"), Grey(), out=tmp_path, final=False)
    assert [entry.record.id for entry in read_records(str(tmp_path))] == ["5", "3", "1", "2", "4"]
    assert summary.dropped == 0
    summary, _ = run(entries("3", "5"), Grey(), out=tmp_path)
    assert [entry.record.id for entry in read_records(str(tmp_path))] == ["3", "5"]
    assert summary.dropped == 3


def test_input_that_breaks_off_completes_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Entry]:
        yield from entries("1", "2")
        raise RealignError("stdin: ended early")

    run(entries("1", "2", "3"), Grey(), out=tmp_path / "complete")
    before = (tmp_path / "complete" / METADATA).read_bytes()
    for out in ("complete", "new"):
        with pytest.raises(RealignError, match="ended early"):
            run(broken(), Grey(), out=tmp_path / out, batch_size=1, final=False)
    assert (tmp_path / "complete" / METADATA).read_bytes() == before
    assert not (tmp_path / "new" / METADATA).exists()
    summary, _ = run(entries("1", "2", "3"), Grey(), out=tmp_path / "new", batch_size=1, final=False)
    assert summary.kept == 2
    assert (tmp_path / "new" / METADATA).read_bytes() == before


def test_overwriting_takes_images_that_no_journal_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run leaves them that was killed between an image and its record; but not those of the user."""
    (tmp_path / "9.png").write_bytes(b"of the user")
    with monkeypatch.context() as patch, pytest.raises(RealignError):
        patch.setattr("realign_cli.runs.folder.RunFolder.add", _killed)
        run(entries("1", "2"), Grey(), out=tmp_path)
    assert (tmp_path / "1.png").exists()
    with RunFolder.open(tmp_path, {"of": "other prompts"}, overwrite=True):
        assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["9.png"]


def test_a_kill_leaves_no_image_to_another_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(RealignError):
        patch.setattr("realign_cli.runs.folder.RunFolder.add", _killed)
        run(entries("1", "2"), Grey(), out=tmp_path)
    run(entries("2", "3"), Grey(), out=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["2.png", "3.png"]
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def _killed(*_: object) -> None:
    raise RealignError("killed here")


def test_the_time_of_each_stage_counts_the_images_it_worked_on(tmp_path: Path) -> None:
    run(entries("1", "2"), Grey(), out=tmp_path / "made")
    first, second = read_records(str(tmp_path / "made"))
    tagged = Entry(first.record.replace(tags=[]), first.place, first.base)
    summary, _ = run([tagged, second], Shade(), Count(), out=tmp_path / "counted")
    assert {stage: time.images for stage, time in summary.stages.items()} == {"shade": 1, "count": 2}
    assert list(seconds_per_image(tmp_path / "counted")) == ["shade", "count"]
    before = (tmp_path / "counted" / TIMES).read_text()
    again, _ = run([tagged, second], Shade(), Count(), out=tmp_path / "counted")
    assert again.kept == 2 and (tmp_path / "counted" / TIMES).read_text() == before
