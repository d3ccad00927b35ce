"""Records and prompts are read from anywhere; what is unusable is named by file and line, and no name leads out."""

from __future__ import annotations

import io
import os
import re
import struct
import sys
from itertools import chain
from pathlib import Path

import pytest
from PIL import Image

from realign_cli.data.images import image_path, open_image
from realign_cli.data.records import (
    METADATA,
    count_records,
    done_path,
    journal_path,
    prompt_ids,
    read_any,
    read_records,
    shard_of,
)
from realign_cli.data.shards import WHOLE, Shard
from realign_cli.errors import RecordError, UsageError
from realign_cli.records import Record


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / METADATA
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def line(record_id: str) -> str:
    return f'{{"text": "a", "id": "{record_id}"}}\n'


class TestRecords:
    def test_folder_file_and_pipe(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "\ufeff" + line("0") + "\n" + line("1").replace("a", "\u2028")
        path = write(tmp_path, text)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        for source, name, base in ((tmp_path, path, tmp_path), (path, path, tmp_path), ("-", "stdin", None)):
            entries = list(read_records(str(source)))
            assert [(e.record.id, e.place, e.base) for e in entries] == [
                ("0", f"{name}:1", base),
                ("1", f"{name}:3", base),
            ]
        assert (count_records(str(tmp_path)), count_records("-")) == (2, None)

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("", "no records"),
            (line("0") + '{"text": "b', ":2: not a JSON record"),
            (line("0").encode() + b'{"text": "\xff"}', ":2: not UTF-8"),
            (line("0") + line("1") + line("0"), ":3: id '0' was used before, at "),
        ],
    )
    def test_unusable_file(self, tmp_path: Path, text: str, complaint: str) -> None:
        write(tmp_path, text)
        with pytest.raises(UsageError, match=re.escape(complaint)):
            list(read_records(str(tmp_path)))

    def test_ids_before_reading(self, tmp_path: Path) -> None:
        write(tmp_path, '{"id": "b"}\nno JSON\n[]\n{}\n{"id": "a"}\n{"id": "a-1", "prompt_id": "a"}\n')
        assert prompt_ids(str(tmp_path)) == ["b", "a", "a"]
        assert prompt_ids("-") is None

    def test_an_imagefolder_without_ids(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write(
            tmp_path, '{"file_name": "0.png", "text": "a"}\n{"file_name": "train/1.a.png", "text": "b"}\n' + line("x")
        )
        assert [entry.record.id for entry in read_records(str(tmp_path))] == ["0", "1.a", "x"]
        assert prompt_ids(str(tmp_path)) == ["0", "1.a", "x"]
        (said,) = caplog.messages
        assert said == f"{tmp_path / METADATA}: without 'id', the stem of 'file_name' is a record's id, such as '0'"

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            (
                '{"file_name": "a/0.png", "text": ""}\n{"file_name": "b/0.png", "text": ""}',
                ":2: id '0' was used before",
            ),
            ('{"file_name": "a b.png", "text": "a"}', ":1: no 'id', and 'a b' of its file_name cannot be one"),
            ('{"text": "a"}', ":1: id: Field required"),
        ],
    )
    def test_no_id_to_be_had(self, tmp_path: Path, text: str, complaint: str) -> None:
        write(tmp_path, text)
        with pytest.raises(UsageError, match=re.escape(complaint)):
            list(read_records(str(tmp_path)))

    def test_images_of_a_plain_folder(self, tmp_path: Path) -> None:
        for name in ("10.png", "2.PNG", "a.jpg", "._2.png", ".a.jpg", "no.txt"):
            (tmp_path / name).touch()
        entries = [(entry.record.id, entry.record.file_name) for entry in read_any(str(tmp_path))]
        assert entries == [("000000", "2.PNG"), ("000001", "10.png"), ("000002", "a.jpg")]

    def test_nothing_there(self, tmp_path: Path) -> None:
        for source, complaint in ((tmp_path, "no metadata.jsonl"), (tmp_path / "b", "no such folder or file")):
            with pytest.raises(UsageError, match=complaint):
                list(read_records(str(source)))
        journal_path(tmp_path, Shard(1, 2)).touch()
        with pytest.raises(UsageError, match="interrupted: run its command again"):
            list(read_records(str(tmp_path)))


class TestImages:
    def path(self, name: str, base: Path | None) -> Path:
        return image_path(Record(id="7", text="a", file_name=name), base)

    def test_inside_its_folder(self, tmp_path: Path) -> None:
        assert self.path("more/a.png", tmp_path) == tmp_path / "more" / "a.png"
        assert self.path(str(tmp_path / "a.png"), None) == tmp_path / "a.png"

    @pytest.mark.parametrize("name", ["../a.png", "more/../../a.png", "/a.png", r"\a.png", r"C:\a.png", r"C:a.png"])
    def test_leaves_its_folder(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(RecordError, match="leaves its folder"):
            self.path(name, tmp_path)

    def test_link_that_leaves_its_folder(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        os.symlink(tmp_path, tmp_path / "folder" / "out")
        with pytest.raises(RecordError, match="leaves its folder"):
            self.path("out/a.png", tmp_path / "folder")

    def test_relative_on_a_pipe(self) -> None:
        for name in ("a.png", "", "/a\0.png"):
            with pytest.raises(RecordError):
                self.path(name, None)

    def test_any_mode_becomes_rgb(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        for mode, colour, seen in (("L", 7, (7, 7, 7)), ("RGBA", (9, 9, 9, 0), (255, 255, 255)), ("P", 0, (0, 0, 0))):
            Image.new(mode, (2, 2), colour).save(path)
            assert open_image(path).mode == "RGB"
            assert open_image(path).getpixel((0, 0)) == seen

    def test_sixteen_bits_keep_their_shades(self, tmp_path: Path) -> None:
        shades = [0, 257, 25700, 65535]
        for name in ("a.png", "a.pgm", "a.tiff"):
            Image.frombytes("I;16", (4, 1), struct.pack("<4H", *shades)).save(tmp_path / name)
            image = open_image(tmp_path / name)
            assert [image.getpixel((x, 0)) for x in range(4)] == [(s // 257,) * 3 for s in shades]
        Image.new("F", (2, 2), 0.5).save(tmp_path / "b.tiff")
        with pytest.raises(RecordError, match="float pixels have no agreed range"):
            open_image(tmp_path / "b.tiff")

    def test_turned_photograph_is_upright(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (4, 2))
        exif = image.getexif()
        exif[0x0112] = 6  # orientation: turn by 90 degrees
        image.save(tmp_path / "a.jpg", exif=exif)
        assert open_image(tmp_path / "a.jpg").size == (2, 4)

    def test_not_an_image(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        kinds = []
        whole = io.BytesIO()
        Image.effect_noise((64, 64), 80).save(whole, "PNG")
        for content in (None, b"", b"text", whole.getvalue()[:-1000]):
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(RecordError, match=r"a\.png: .*; generate it again") as error:
                open_image(path)
            kinds.append(error.value.kind)
        assert kinds == ["missing_image", *["unreadable_image"] * 3]


class TestShard:
    def test_parts_make_the_whole(self) -> None:
        ids = [f"{i:06d}" for i in range(300)]
        parts = [[i for i in ids if Shard(k, 3).owns(i)] for k in (1, 2, 3)]
        assert sorted(chain(*parts)) == ids
        assert min(map(len, parts)) > 50
        assert Shard(1, 3).sizes(ids) == [len(part) for part in parts]
        assert WHOLE.sizes(ids) == [300]

    def test_names_of_files(self) -> None:
        for shard in (Shard(3, 12), WHOLE):
            assert Shard.of_name(shard.suffix) == shard
            for path in (journal_path(Path(), shard), done_path(Path(), shard)):
                assert shard_of(path) == shard
        assert Shard.of_name("-of-others") is None

    @pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", ""])
    def test_nonsense(self, text: str) -> None:
        with pytest.raises(UsageError, match="write i/n"):
            Shard.parse(text)
