"""A model hub on loopback, as far as downloading goes: repositories of folders, commits, sums, ranges, and bad days."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serves `repos` (id -> folder), models or data sets, at one commit, and plain files of `plain` under /plain/.

    `torn` names files that break off half-way once, `stalled` files that do so and then say nothing more, `damaged`
    files whose published sum is another.
    """

    daemon_threads = True

    def __init__(self, repos: dict[str, Path], plain: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos, self.plain = repos, plain
        self.torn: set[str] = set()
        self.stalled: set[str] = set()
        self.damaged: set[str] = set()
        self.asked: list[tuple[str, str | None]] = []  # the file of each GET, and the range of it
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def asked_for(self, name: str) -> list[str | None]:
        return [span for file, span in self.asked if file == name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        if match := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            repo, kind, revision = match.groups()
            if repo in self.server.repos and revision in (COMMIT, "main"):
                answer = {"id": repo, "sha": COMMIT, "siblings": []} if kind == "revision" else list(self._tree(repo))
                return self._json(answer)
        elif match := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo, revision, name = match.groups()
            if repo in self.server.repos and revision in (COMMIT, "main"):
                return self._file(self.server.repos[repo], name, body=body)
        elif path.startswith("/plain/"):
            return self._file(self.server.plain, path.removeprefix("/plain/"), body=body)
        return self._missing()

    def _tree(self, repo: str) -> Iterable[dict[str, object]]:
        folder = self.server.repos[repo]
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            name, data = file.relative_to(folder).as_posix(), file.read_bytes()
            entry: dict[str, object] = {"type": "file", "path": name, "oid": _git(data), "size": len(data)}
            if file.suffix == ".safetensors":
                entry["lfs"] = {"oid": self._sum(name, data), "size": len(data), "pointerSize": 130}
            yield entry

    def _sum(self, name: str, data: bytes) -> str:
        return "0" * 64 if name in self.server.damaged else hashlib.sha256(data).hexdigest()

    def _file(self, folder: Path, name: str, *, body: bool) -> None:
        if not (folder / name).is_file():
            return self._missing()
        data, span = (folder / name).read_bytes(), self.headers.get("Range")
        etag = self._sum(name, data) if name.endswith(".safetensors") else _git(data)
        begin = int(span.removeprefix("bytes=").split("-")[0]) if span else 0
        if begin >= len(data) > 0:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        if span:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not body:
            return None
        self.server.asked.append((name, span))
        if name in self.server.torn | self.server.stalled:
            self.wfile.write(data[begin : begin + (len(data) - begin) // 2])
            self.wfile.flush()
            if name in self.server.stalled:
                self.server.closing.wait()
            self.server.torn.discard(name)
            self.close_connection = True
            return None
        self.wfile.write(data[begin:])
        return None

    def _json(self, answer: object) -> None:
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _missing(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()


def _git(data: bytes) -> str:
    """The sum by which git knows a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
