"""Whatever bytes come in: records, or the one documented error that names the file and the line."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from support.runs import repeatable

from realign_cli.data.captions import read_captions
from realign_cli.data.images import image_path
from realign_cli.data.prompts import read_prompts
from realign_cli.data.records import METADATA, journal_path, read_records
from realign_cli.errors import RecordError, UsageError
from realign_cli.records import Record, dump_line, parse_line
from realign_cli.runs.folder import RUN, RunFolder

if TYPE_CHECKING:
    from faults.warm import Warm

pytestmark = pytest.mark.fault

A = '{"text": "a red circle", "id": "a", "tags": [{"label": "circle", "confidence": 0.9}]}'
B = '{"text": "a blué ring", "id": "b", "of_mine": {"x": [1, null]}}'


def ids(path: Path, data: bytes) -> list[str]:
    path.write_bytes(data)
    return [entry.record.id for entry in read_records(str(path))]


def test_a_last_line_cut_anywhere_is_named(tmp_path: Path) -> None:
    first, last = (A + "\n").encode(), B.encode()
    path = tmp_path / METADATA
    assert ids(path, first) == ["a"]
    assert ids(path, first + last) == ["a", "b"]
    for end in range(1, len(last)):
        with pytest.raises(UsageError, match=re.escape(f"{path}:2: not ")):
            ids(path, first + last[:end])


def test_a_journal_cut_anywhere_goes_on_from_its_whole_lines(tmp_path: Path) -> None:
    records = [parse_line(A, ""), parse_line(B, "")]
    lines = [(dump_line(record) + "\n").encode() for record in records]
    for end in range(len(lines[1]) + 1):
        folder = tmp_path / str(end)
        RunFolder(folder, {})
        journal_path(folder).write_bytes(lines[0] + lines[1][:end])
        continued = RunFolder(folder, {})
        assert list(continued.kept) == (["a", "b"] if end == len(lines[1]) else ["a"])
        for record in records:
            if record.id not in continued.kept:
                continued.add(record)
        continued.complete(["a", "b"])
        assert (folder / METADATA).read_bytes() == b"".join(lines)
        assert not journal_path(folder).exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + A.encode() + b"\n" + B.encode(),
        A.encode() + b"\r\n" + B.encode() + b"\r\n",
        b"\n\n" + A.encode() + b"\n \t\n" + B.encode() + b"\n\n",
    ],
    ids=["byte order mark", "CRLF", "blank lines"],
)
def test_what_editors_do_to_a_file(tmp_path: Path, data: bytes) -> None:
    assert ids(tmp_path / METADATA, data) == ["a", "b"]
    RunFolder(tmp_path / "own", {}).complete([])
    (tmp_path / "own" / METADATA).write_bytes(data)
    assert list(RunFolder(tmp_path / "own", {}).kept) == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (A, ":2: id 'a' was used before"),
        ('{"text": "a", "id": "b", "x": NaN}', ":2: not a JSON record"),
        ('{"text": "a", "id": "b", "x": -Infinity}', ":2: not a JSON record"),
        ('{"text": "a", "id": "b", "caption": {"text": "", "reward": 1e999}}', ":2: not a JSON record"),
        (b'{"text": "\xff", "id": "b"}', ":2: not UTF-8 text"),
        (b"\x00" * 4096, ":2: not a JSON record"),
        ("[" * 200_000, ":2: not a JSON record"),
        ('{"text": "a", "id": 7}', ":2: id: "),
        ('{"text": ["a"], "id": "b"}', ":2: text: "),
        ('{"text": "a", "id": "b", "tags": {}}', ":2: tags: "),
        ('{"text": "a", "id": "b", "objects": [{"label": "x"}]}', ":2: objects.0.phrase: "),
        ("null", ":2: record: "),
        (
            '{"schema": 2, "text": {"en": "a"}, "id": "b"}',
            ":2: schema 2 is needed, and this realign reads up to 1: pip install -U realign",
        ),
        ('{"schema": "2", "text": "a", "id": "b"}', ":2: schema: must be a whole number, such as 1"),
    ],
)
def test_the_bad_line_is_named(tmp_path: Path, line: str | bytes, complaint: str) -> None:
    path = tmp_path / METADATA
    with pytest.raises(UsageError, match=re.escape(f"{path}{complaint}")) as error:
        ids(path, A.encode() + b"\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_unknown_keys_and_a_line_of_ten_megabytes_come_through(warm: Warm, tmp_path: Path) -> None:
    own = {"schema": 1, "of_mine": "x" * 10_000_000, "more": [1, {"deep": None}]}
    (tmp_path / METADATA).write_text(json.dumps(json.loads(A) | own) + "\n")
    ended = warm("score", "--in", METADATA, "--out", "scored", "-q", cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    out = json.loads((tmp_path / "scored" / METADATA).read_text())
    assert {key: out[key] for key in own} == own and "objects" in out


def test_a_folder_of_a_later_schema_is_left_alone(tmp_path: Path) -> None:
    RunFolder(tmp_path, {}).complete([])
    account = json.loads((tmp_path / RUN).read_text())
    assert account["schema"] == 1
    (tmp_path / RUN).write_text(json.dumps(account | {"schema": 3}))
    before = repeatable(tmp_path)
    with pytest.raises(UsageError, match=r"run\.json: schema 3 is needed, and this realign reads up to 1"):
        RunFolder(tmp_path, {})
    assert repeatable(tmp_path) == before


KEYS = st.sampled_from([*Record.model_fields, "schema", "confidence", "label", "likelihood", "counts", ""]) | st.text()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["id", "a", "..", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
)
LINE = (
    st.binary()
    | JSON.map(lambda data: json.dumps(data).encode())
    | st.tuples(st.sampled_from([A.encode(), B.encode()]), st.integers(0, 90), st.binary(max_size=3)).map(
        lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] :]
    )
)


@fuzzed
@given(st.lists(LINE, max_size=3).map(b"\n".join))
def test_no_bytes_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz" / METADATA
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    try:
        for entry in read_records(str(path)):
            assert json.loads(dump_line(entry.record))["id"] == entry.record.id
            for base in (path.parent, None):
                with suppress(RecordError):
                    image_path(entry.record, base)
    except UsageError as error:
        assert str(error).startswith(str(path)) and len(str(error).splitlines()) == 1


CAPTION = st.dictionaries(
    st.sampled_from(["id", "caption", "text", "prompt", "image_id"]) | st.text(), JSON, max_size=4
)
CAPTIONS = (
    st.lists(LINE, max_size=3).map(b"\n".join)
    | st.lists(CAPTION | JSON, max_size=3).map(lambda notes: json.dumps({"annotations": notes}).encode())
    | st.lists(CAPTION, max_size=3).map(lambda rows: b"\n".join(json.dumps(row).encode() for row in rows))
    | st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.text(st.characters(categories=["Cs", "Ll"]), min_size=1).map(lambda t: json.dumps({"caption": t}).encode())
)


@fuzzed
@given(CAPTIONS, st.sampled_from(["p", "p.txt", "p.jsonl", "p.NDJSON", "p.json", "p.csv"]))
def test_no_bytes_make_two_readers_of_prompts_differ(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "prompts" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    try:
        prompts = read_captions(str(path)).prompts
    except UsageError as error:
        assert str(path) in str(error)
        with pytest.raises(UsageError, match=re.escape(str(error))):
            list(read_prompts(path, 42))
        return
    assert prompts and all(prompt.strip() and prompt.encode() for prompt in prompts)
    try:
        assert [entry.record.text for entry in read_prompts(path, 42)] == prompts
    except UsageError as error:  # an id that is none, or is used twice
        assert str(path) in str(error)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"prompt": NaN}', '{"prompt": "a", "x": ' + "[" * 200_000])
def test_prompt_files_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "a.json").write_text(text)
    for read in (
        lambda: list(read_prompts(tmp_path / "a.jsonl", 42)),
        lambda: read_captions(str(tmp_path / "a.jsonl")),
        lambda: read_captions(str(tmp_path / "a.json")),
    ):
        with pytest.raises(UsageError):
            read()
