"""What `realign doctor` finds out, here and from a server in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from realign_cli import presets
from realign_cli.commands import _checks, doctor

KEY = "sk-not-for-anyones-eyes"


class Handler(BaseHTTPRequestHandler):
    """A chat server's list of models, for who has the key."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == f"Bearer {KEY}"
        body = b"<html>" if self.path.startswith("/page") else json.dumps({"data": [{"id": "gpt-x"}]}).encode()
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("model", "place", "key", "detail", "remedy"),
    [
        ("gpt-x", "/v1", KEY, "gpt-x is there", ""),
        ("gpt-y", "/v1", KEY, "the server does not know gpt-y", "--set scorer.checkpoint=ONE OF gpt-x"),
        ("gpt-x", "/v1", "wrong", "the server answers 401", "check OPENAI_API_KEY and OPENAI_BASE_URL"),
        ("gpt-x", "/page", KEY, "no list of models (Expecting value", "start the server, or correct OPENAI_BASE_URL"),
        ("gpt-x", None, "", "no server for gpt-x", "set OPENAI_API_KEY or OPENAI_BASE_URL"),
    ],
)
def test_language_model(
    monkeypatch: pytest.MonkeyPatch, address: str, model: str, place: str | None, key: str, detail: str, remedy: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{address}{place}" if place else "")
    monkeypatch.setenv("OPENAI_API_KEY", key)
    found = _checks.language_model(model)
    assert found.detail.startswith(detail) and found.remedy.startswith(remedy) and bool(found.remedy) is bool(remedy)
    assert KEY not in found.detail + found.remedy


def test_a_language_model_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert "refused" in _checks.language_model("gpt-x").detail


def test_any_answer_is_an_answer(address: str) -> None:
    assert _checks.reached("hub", address, "dig") == _checks.Check("hub", f"{address} answers")
    nobody = _checks.reached("hub", "http://127.0.0.1:9", "dig")
    assert "refused" in nobody.detail and nobody.remedy == "dig"


def test_disk(tmp_path: Path) -> None:
    assert not _checks.disk(tmp_path / "not" / "yet", 0.0).remedy
    assert "HF_HOME" in _checks.disk(tmp_path / "not" / "yet", 1e9).remedy


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _checks.packages().remedy
    wanted = ["pytest>=99", "no-such-thing>=1", "numpy", "no-such-extra; extra == 'dev'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: wanted)
    found = _checks.packages()
    assert found.detail.startswith("pytest>=99 but ") and found.detail.endswith("; no-such-thing>=1 is missing")
    assert "pip install" in found.remedy


@pytest.mark.parametrize(("gigabytes", "short"), [(40.0, set()), (16.0, {"train", "refine"}), (None, {"GPU"})])
def test_memory(monkeypatch: pytest.MonkeyPatch, gigabytes: float | None, short: set[str]) -> None:
    """Weights of sd15 as each command holds them, against the paper's GPU, a smaller one and none."""
    monkeypatch.setattr(_checks, "gpu_memory", lambda: gigabytes and ("a GPU", gigabytes))
    found = {one.name.removeprefix("memory of "): one for one in doctor._memory(presets.load("sd15"))}
    assert {name for name, one in found.items() if one.remedy} == short
    if gigabytes:
        assert found["train"].detail == "18.8 GB of weights" and found["generate"].detail == "2.1 GB of weights"
    else:
        assert found["GPU"].remedy.startswith("--preset tiny")


def test_the_language_model_of_a_preset_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    monkeypatch.setenv("OPENAI_API_KEY", "")
    found = {one.name: one for one in doctor._findings(presets.load("sd15"), "sd15")}
    assert found["language model"].remedy.startswith("set OPENAI_API_KEY")
    assert "language model" not in {one.name for one in doctor._findings(presets.load("tiny"), "tiny")}
