"""A file is fetched once, whole, and only if it is the one that was meant. From a server in this process."""

from __future__ import annotations

import hashlib
import re
import resource
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from realign_cli.errors import RealignError
from realign_cli.files.download import download_file

BODY = b"".join(b"a red circle, %d\n" % line for line in range(1000))
SUM = hashlib.sha256(BODY).hexdigest()
REMEDY = "fetch it elsewhere"


class Handler(BaseHTTPRequestHandler):
    """Sends `BODY`; of torn.txt ten bytes at a time, of whole.txt from the start whatever is asked for."""

    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        span = self.headers.get("Range") if self.path != "/whole.txt" else None
        begin = int(span.removeprefix("bytes=").removesuffix("-")) if span else 0
        status = 404 if self.path == "/none.txt" else 416 if begin >= len(BODY) else 206 if span else 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(BODY) - begin))
        self.end_headers()
        self.wfile.write(BODY[begin : begin + 10] if self.path == "/torn.txt" else BODY[begin:])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_once(tmp_path: Path, address: str) -> None:
    for _ in range(2):
        path = download_file(f"{address}/set.txt", tmp_path / "new" / "mine.txt", SUM, remedy=REMEDY)
        assert path == tmp_path / "new" / "mine.txt" and path.read_bytes() == BODY
    assert Handler.asked.count("/set.txt") == 1


@pytest.mark.parametrize(
    ("name", "sha256", "complaint"),
    [
        ("none.txt", None, "cannot fetch .*none.txt .*Not Found.*: fetch it elsewhere"),
        ("torn.txt", None, "cannot fetch .*torn.txt .it broke off [0-9]+ bytes before the end.*: fetch it elsewhere"),
        ("set.txt", "0" * 64, "set.txt: not the file that was published .SHA-256.*fetch it elsewhere"),
    ],
)
def test_nothing_is_left_of_what_went_wrong(
    tmp_path: Path, address: str, name: str, sha256: str | None, complaint: str
) -> None:
    with pytest.raises(RealignError, match=complaint):
        download_file(f"{address}/{name}", tmp_path / name, sha256, remedy=REMEDY)
    assert not list(tmp_path.iterdir())


def test_a_file_of_known_sum_is_taken_up_where_it_broke(tmp_path: Path, address: str) -> None:
    path, part = tmp_path / "torn.txt", tmp_path / "torn.txt.part"
    for sent in (50, 100):  # five times ten bytes with each call
        with pytest.raises(RealignError, match=f"broke off {len(BODY) - sent} bytes before the end"):
            download_file(f"{address}/torn.txt", path, SUM, remedy=REMEDY)
        assert part.read_bytes() == BODY[:sent]
    part.write_bytes(BODY[:-7])
    assert download_file(f"{address}/torn.txt", path, SUM, remedy=REMEDY).read_bytes() == BODY
    assert list(tmp_path.iterdir()) == [path]


def test_without_room_what_came_is_kept(tmp_path: Path, address: str) -> None:
    path = tmp_path / "set.txt"
    before, was = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(RealignError, match=rf"cannot write {path}.part: File too large; make room"):
            download_file(f"{address}/set.txt", path, SUM, remedy=REMEDY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, was)
    assert (tmp_path / "set.txt.part").read_bytes() == BODY[:1000]
    assert download_file(f"{address}/set.txt", path, SUM, remedy=REMEDY).read_bytes() == BODY


@pytest.mark.parametrize("begun", [BODY[:500], BODY], ids=["half", "all"])
@pytest.mark.parametrize("name", ["set.txt", "whole.txt"])
def test_a_server_may_not_know_ranges(tmp_path: Path, address: str, name: str, begun: bytes) -> None:
    (tmp_path / f"{name}.part").write_bytes(begun)
    assert download_file(f"{address}/{name}", tmp_path / name, SUM, remedy=REMEDY).read_bytes() == BODY


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(RealignError, match=r"cannot fetch http://127\.0\.0\.1:9/a\.txt \(.*refused"):
        download_file("http://127.0.0.1:9/a.txt", tmp_path / "a.txt", remedy=REMEDY)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("file:///etc/passwd", "cannot fetch file:///etc/passwd (not http:// or https://): remedy"),
        ("http://me:hunter2@127.0.0.1:1/x?token=hunter2&n=1", "http://...@127.0.0.1:1/x?token=...&n=... ("),
        ("http://me:hunter2@nowhere/x", "cannot fetch http://...@nowhere/x (not a web address): remedy"),
        ("http://[hunter2/x", "(not a web address): remedy"),
    ],
)
def test_an_address_is_of_the_web_and_told_without_its_secrets(tmp_path: Path, url: str, shown: str) -> None:
    with pytest.raises(RealignError, match=re.escape(shown)) as caught:
        download_file(url, tmp_path / "x", remedy="remedy")
    assert "hunter2" not in str(caught.value).replace("http://[hunter2/x", "")
    assert not list(tmp_path.iterdir())
