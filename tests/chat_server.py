"""A language model's server on loopback that can misbehave: real HTTP, and a model of very few words.

Its own answers give every tag the words "a (...) TAG" of the text and the likelihood 0.5, so that they cannot be
mistaken for those of the rules, which are certain.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-recognisable-0123456789"  # what the tests give as OPENAI_API_KEY
Behaviour = Callable[["Handler"], None]


class ChatServer(ThreadingHTTPServer):
    """Answers the n-th request with the n-th behaviour of `script`, and where that ends, with `after`."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.script: list[Behaviour] = []
        self.after: Behaviour = answers
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()

    def next(self, body: dict[str, Any], key: str) -> Behaviour:
        with self._lock:
            self.requests.append(body)
            self.keys.append(key)
            return self.script.pop(0) if self.script else self.after

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is expected here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.next(self.body, self.headers.get("Authorization", ""))(self)

    def send(
        self, status: int, text: str | bytes, *, kind: str = "application/json", length: int = 0, **headers: str
    ) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.send_response(status)
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(length or len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def latest_question(body: dict[str, Any]) -> str:
    """The latest user message that is no complaint."""
    return [m["content"] for m in body["messages"] if m["role"] == "user" and m["content"][0] == '"'][-1]


def asked(body: dict[str, Any]) -> tuple[str, list[str]]:
    """The text and the tags of the latest question."""
    question = latest_question(body)
    text, end = json.JSONDecoder().raw_decode(question)
    return text, json.JSONDecoder().raw_decode(question, end + 2)[0]


def entries(body: dict[str, Any]) -> list[dict[str, Any]]:
    text, tags = asked(body)
    found = {tag: re.search(rf"\ba (\w+ )?{re.escape(tag)}\b", text, re.IGNORECASE) for tag in tags}
    return [{"tag": t, "phrase": m.group() if m else "", "likelihood": 0.5} for t, m in found.items()]


def completion(content: object, finish: str = "stop", **message: object) -> str:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    return json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": {"total_tokens": 100}})


def says(content: object | Callable[[dict[str, Any]], object], **message: object) -> Behaviour:
    """A reply with this content, or with what a function makes of the request."""
    return lambda at: at.send(200, completion(content(at.body) if callable(content) else content, **message))


def status(code: int, message: str = "no", **headers: str) -> Behaviour:
    return lambda at: at.send(code, json.dumps({"error": {"message": message}}), **headers)


def answers(at: Handler) -> None:
    """As a good model does, in either dialogue."""
    question = latest_question(at.body)
    found = entries(at.body)
    reply: Any = {entry.pop("tag"): entry for entry in entries(at.body)}
    if "assess the described scene" in question:
        reply = {entry["tag"]: entry["likelihood"] for entry in found}
    elif "refine these detected phrases" in question:
        reply = {entry["tag"]: entry["phrase"] for entry in found if entry["phrase"]}
    says(json.dumps(reply))(at)


def hangs(at: Handler) -> None:
    at.server.closing.wait(30)


def drips(at: Handler) -> None:
    """Never silent for long, and never done."""
    at.send(200, "{", length=1_000_000)
    while not at.server.closing.wait(0.05):
        at.wfile.write(b" ")


def resets(at: Handler) -> None:
    at.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(at.connection.detach())  # its files keep a socket open that is merely closed


def breaks_off(at: Handler) -> None:
    text = completion("[]")
    at.send(200, text[:-20], length=len(text))
    at.close_connection = True


def rejects(parameter: str, *values: object, code: int = 400, words: str = "") -> Behaviour:
    """A server that knows only some values of a parameter, or does not know it at all, and says so in its own way."""

    def behave(at: Handler) -> None:
        given = at.body.get(parameter)
        if parameter not in at.body or (given["type"] if isinstance(given, dict) else given) in values:
            answers(at)
        else:
            status(code, words or f"Invalid parameter: '{parameter}' is not supported with this model")(at)

    return behave
