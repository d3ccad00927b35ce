"""A file is fetched once, whole, and only if it is the one that was meant. From a server in this process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from realign_cli.errors import RealignError
from realign_cli.plumbing.download import fetched

BODY = b"a red circle\n" * 1000


class Handler(BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(404 if self.path == "/none.txt" else 200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[:10] if self.path == "/torn.txt" else BODY)

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
        path = fetched(f"{address}/set.txt", tmp_path / "new", hashlib.sha256(BODY).hexdigest())
        assert path == tmp_path / "new" / "set.txt" and path.read_bytes() == BODY
    assert Handler.asked.count("/set.txt") == 1


@pytest.mark.parametrize(
    ("name", "sha256", "complaint"),
    [
        ("none.txt", None, "cannot fetch .*none.txt .*Not Found.*--from FILE"),
        ("torn.txt", None, "cannot fetch .*torn.txt .it broke off 12990 bytes before the end.*: fetch it elsewhere"),
        ("set.txt", "0" * 64, "set.txt: not the file that was published .SHA-256.*--from FILE"),
    ],
)
def test_nothing_is_left_of_what_went_wrong(
    tmp_path: Path, address: str, name: str, sha256: str | None, complaint: str
) -> None:
    with pytest.raises(RealignError, match=complaint):
        fetched(f"{address}/{name}", tmp_path, sha256)
    assert not list(tmp_path.iterdir())


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(RealignError, match=r"cannot fetch http://127\.0\.0\.1:9/a\.txt \(.*refused"):
        fetched("http://127.0.0.1:9/a.txt", tmp_path)
