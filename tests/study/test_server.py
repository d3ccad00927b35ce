"""The server, asked directly: what it gives, what it refuses, and that it says nothing about systems."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from study_folders import SYSTEMS

from realign_cli.errors import UsageError
from realign_cli.study.answers import Database
from realign_cli.study.design import Study, read_study
from realign_cli.study.server import Limiter, application, listen


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    app: Any
    study: Study
    database: Database

    def ask(self, method: str, path: str, *body: bytes) -> Reply:
        """A request, its body in one or more chunks, as a web server would pass it on."""
        chunks = list(body) or [b""]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not chunks:
                await asyncio.sleep(3600)
            return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path}
        scope |= {"raw_path": path.encode(), "root_path": "", "scheme": "http", "query_string": b"", "headers": []}
        asyncio.run(self.app({**scope, "client": ("127.0.0.1", 9), "server": ("127.0.0.1", 80)}, receive, send))
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], headers, b"".join(one.get("body", b"") for one in sent[1:]))

    def put(self, token: str, data: Any) -> int:
        return self.ask("PUT", f"/{token}/answers", json.dumps(data).encode()).status


@pytest.fixture
def server(finished: Path, tmp_path: Path) -> Iterator[Server]:
    study = read_study(finished)
    with closing(Database(tmp_path)) as database:
        yield Server(application(study, finished, database), study, database)


def test_a_rater_gets_a_page_and_the_images_on_it(server: Server) -> None:
    rater = server.study.raters[0]
    page = server.ask("GET", f"/{rater.token}")
    source = page.body.decode()
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["cache-control"] == "no-store"
    shown = {name for trial in rater.trials for name in trial.images}
    assert set(re.findall(r"[0-9a-f]{20}\.png", source)) == shown | set(server.study.example.images)
    assert not [other.token for other in server.study.raters[1:] if other.token in source]
    for name in shown:
        image = server.ask("GET", f"/images/{name}")
        assert image.status == 200 and image.body.startswith(b"\x89PNG") and "last-modified" not in image.headers


def test_nothing_else_can_be_asked_for(server: Server) -> None:
    paths = ["/", "/images", "/images/", "/study.json", "/index.html", "/nobody", "/nobody/answers", "/answers.sqlite"]
    paths += ["/images/..%2Fstudy.json", "/images/../../study.json", "/images/\0", f"/{server.study.raters[0].token}/"]
    for path in paths:
        reply = server.ask("GET", path)
        assert reply.status in (307, 404, 405), path
        assert not [name for name in SYSTEMS if name.encode() in reply.body]
    assert server.put("nobody", {}) == 404
    assert server.ask("POST", f"/{server.study.raters[0].token}").status == 405


def test_every_reply_trusts_nobody(server: Server) -> None:
    for reply in (server.ask("GET", f"/{server.study.raters[0].token}"), server.ask("GET", "/nobody")):
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; img-src 'self' data:; style-src 'sha256-")
        assert "unsafe" not in policy and policy.endswith("frame-ancestors 'none'")
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_answers_are_saved_and_come_back_with_the_page(server: Server) -> None:
    rater = server.study.raters[1]
    first, second = rater.trials[0].images[:2]
    for choice in (first, second):
        assert server.put(rater.token, {"trial": 0, "question": "fidelity", "choice": choice, "ms": 9}) == 204
    assert server.put(rater.token, {"trial": 1, "question": "alignment", "choice": None, "ms": 9}) == 204
    kept = [(one.trial, one.question, one.choice) for one in server.database.of(rater)]
    assert kept == [(0, "fidelity", second), (1, "alignment", None)]
    page = server.ask("GET", f"/{rater.token}").body.decode()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [(one["trial"], one["choice"]) for one in data["answers"]] == [(0, second), (1, None)]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"[" * 2000, b"\xff", b'{"trial": 0, "question": "beauty", "choice": null, "ms": 1}'],
    ids=lambda body: body[:20],
)
def test_what_is_no_answer_is_refused(server: Server, body: bytes) -> None:
    rater = server.study.raters[0]
    assert server.ask("PUT", f"/{rater.token}/answers", body).status == 400
    assert server.database.of(rater) == []


def test_a_body_without_end_is_cut_short(server: Server) -> None:
    chunks = [b" " * 1000] * 50
    assert server.ask("PUT", f"/{server.study.raters[0].token}/answers", *chunks).status == 413


def test_a_full_disk_is_no_answer_saved(server: Server) -> None:
    server.database._connection.execute("PRAGMA query_only = ON")  # as a disk that takes nothing
    rater = server.study.raters[0]
    answer = {"trial": 0, "question": "alignment", "choice": rater.trials[0].images[0], "ms": 9}
    assert server.put(rater.token, answer) == 503


def test_who_asks_too_often_has_to_wait(server: Server) -> None:
    now = 0.0
    limiter = Limiter(rate=2, burst=3, clock=lambda: now)
    server.app = application(server.study, Path(), server.database, limiter)
    token = server.study.raters[0].token
    assert [server.ask("GET", f"/{token}").status for _ in range(5)] == [200, 200, 200, 429, 429]
    now = 1.0
    assert [server.ask("GET", f"/{token}").status for _ in range(3)] == [200, 200, 429]
    assert limiter.allows("another address")
    assert server.ask("GET", f"/{token}").headers["retry-after"] == "1"


def test_an_address_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="choose another --port"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UsageError, match="choose another --port or --host"):
        listen("no.such.host.invalid", 0)
