"""`realign score` with a language model, as a user runs it: what comes out, the exit code, and where the key goes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from chat_server import KEY, Behaviour, ChatServer, answers, completion, drips, resets, says, status

Run = Callable[..., CompletedProcess[str]]

PRESET = """
[scorer]
adapter = "realign_cli.models.language.llm_scorer:LanguageModelScorer"
checkpoint = "some-model"
mode = "single"
concurrency = 4
timeout = 10.0
retries = 1
patience = 0.0
cache = ""
"""
TAGS = [{"label": "circle", "confidence": 0.9}]
TAGGED = [
    {"text": f"a {colour} circle", "id": str(i), "tags": TAGS} for i, colour in enumerate(["red", "blue", "green"])
]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "model.toml").write_text(PRESET)
    (tmp_path / "tagged").mkdir()
    (tmp_path / "tagged" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in TAGGED))
    return tmp_path


def records(done: CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def kinds(done: CompletedProcess[str]) -> list[list[str]]:
    return [[failure["kind"] for failure in record.get("failures", [])] for record in records(done)]


SCORE = ("score", "--in", "tagged", "--preset", "model.toml")


def test_the_model_answers_once_for_all_runs(realign: Run, here: Path, chat_server: ChatServer) -> None:
    done = realign(*SCORE, "--out", "scored", cwd=here)
    assert done.returncode == 0, done.stderr
    assert [(record["scorer"], record["objects"][0]["likelihood"]) for record in records(done)] == [
        ("some-model", 0.5)
    ] * 3
    assert "failures" not in done.stdout
    asked = len(chat_server.requests)
    again = realign(*SCORE, "--out", "again", cwd=here)
    assert (again.stdout, again.returncode) == (done.stdout, 0)
    assert len(chat_server.requests) == asked == 3


def test_rules_step_in_and_the_exit_code_tells(realign: Run, here: Path, chat_server: ChatServer) -> None:
    chat_server.script = [answers, says("no"), says("no")]
    done = realign(*SCORE, "--set", "scorer.concurrency=1", cwd=here)
    assert done.returncode == 3
    assert [(record["scorer"], record["objects"][0]["likelihood"]) for record in records(done)] == [
        ("some-model", 0.5),
        ("rules", 2.0),
        ("some-model", 0.5),
    ]
    assert kinds(done) == [[], ["malformed_reply"], []]
    assert done.stderr.startswith(
        "tagged/metadata.jsonl:2: score: the language model's answer is invalid: it holds no complete JSON\n"
    )
    fallen = [json.loads(path.read_text()) for path in (here / "cache" / "realign" / "replies").iterdir()]
    assert len(fallen) == 1 + 4


def test_the_model_is_asked_again_where_it_could_not_answer(realign: Run, here: Path, chat_server: ChatServer) -> None:
    chat_server.script = [answers, status(503, "Loading model")]
    settings = [f"--set=scorer.{one}" for one in ("retries=0", "concurrency=1")]
    done = realign(*SCORE, *settings, "--out", "scored", cwd=here)
    assert (done.returncode, kinds(done)) == (3, [[], ["server_error"], []])
    done = realign(*SCORE, *settings, "--out", "scored", "--retry-failed", cwd=here)
    assert (done.returncode, kinds(done), len(chat_server.requests)) == (0, [[], [], []], 4)


def test_a_server_that_starts_is_waited_for(realign: Run, here: Path, chat_server: ChatServer) -> None:
    """With a word on it, and without a failure."""
    chat_server.script = [status(503, "Loading model")] * 2
    settings = [f"--set=scorer.{one}" for one in ("retries=0", "patience=60")]
    done = realign(*SCORE, *settings, cwd=here)
    assert (done.returncode, kinds(done)) == (0, [[], [], []])
    assert "does not answer; waiting for it for up to 60 s" in " ".join(done.stderr.split())


@pytest.mark.parametrize("cap", ["--max-calls", "--max-tokens"])
def test_caps(realign: Run, here: Path, chat_server: ChatServer, cap: str) -> None:
    done = realign(*SCORE, cap, "1", "-q", cwd=here)
    assert (done.returncode, kinds(done)) == (3, [[], ["budget"], ["budget"]])
    assert "are spent\n" in done.stderr and cap in done.stderr
    assert len(chat_server.requests) == 1
    assert realign("score", "--in", "tagged", cap, "1", cwd=here).returncode == 0  # the rules make no calls


def test_a_record_that_fell_back_goes_on(
    shell: Run, realign: Run, coarse: Path, here: Path, chat_server: ChatServer
) -> None:
    """Through the rest of the pipe, which reports only its own failures."""
    chat_server.script = [status(400, "too long")] * 3  # in every form
    line = (
        f"realign tag -q --in {coarse} | (realign score -q --preset model.toml; echo $? > score)"
        " | realign segment -q > segmented; echo $? > segment"
    )
    done = shell(line, here)
    assert [(here / name).read_text() for name in ("score", "segment")] == ["3\n", "0\n"], done.stderr
    segmented = [json.loads(text) for text in (here / "segmented").read_text().splitlines()]
    assert [record["scorer"] for record in segmented] == ["rules"] + ["some-model"] * 3
    assert all("boxes" in one for record in segmented for one in record["objects"])
    assert segmented[0]["objects"][0]["mask"]
    assert [failure["recovered"] for failure in segmented[0]["failures"]] == [True]
    assert done.stderr.count("\n") == 1 and "stdin:1: score: http://127.0.0.1" in done.stderr


def test_scoring_again_takes_the_failure_back(realign: Run, here: Path, chat_server: ChatServer) -> None:
    chat_server.script = [status(400)] * 3
    first = realign("score", "--preset", "model.toml", input=json.dumps(TAGGED[0]), cwd=here)
    second = realign("score", "--preset", "model.toml", input=first.stdout, cwd=here)
    assert [(done.returncode, *kinds(done), records(done)[0]["scorer"]) for done in (first, second)] == [
        (3, ["rejected"], "rules"),
        (0, [], "some-model"),
    ]


# What happens to a record -> the replies to its requests, all of which say the key where they can say anything.
FATES: list[tuple[str, list[Behaviour]]] = [
    ("", [answers]),
    ("malformed_reply", [says(f"your key is {KEY}")] * 2),
    ("refused", [says(None, refusal=f"not for {KEY}")]),
    ("rejected", [status(400, f"Incorrect API key provided: {KEY}")]),
    ("bad_response", [lambda at: at.send(200, f"<html>{KEY}", kind="text/html")]),
    ("rate_limited", [status(429, KEY)]),
    ("server_error", [status(500, KEY)]),
    ("timeout", [drips]),
    ("connection_lost", [resets]),
]


def escaped(text: str) -> str:
    """As JSON may write any text."""
    return "".join(f"\\u{ord(char):04x}" for char in text)


def echoes(code: int, text: str) -> Behaviour:
    """The key as JSON escapes it in a reply, once more as a string of JSON in it, and as HTML does."""
    forms = [escaped(KEY), escaped(escaped(KEY)), KEY.replace("-", "\\\\u002d"), KEY.replace("-", "&#45;")]
    return lambda at: at.send(code, text.replace("KEY", " or ".join(forms)))


SAID = completion("KEY", KEY="KEY", usage_of=[{"KEY": ["KEY"]}])
ESCAPED: list[tuple[str, list[Behaviour]]] = [
    ("malformed_reply", [echoes(200, SAID)] * 2),
    ("refused", [echoes(200, completion(None, refusal="KEY"))]),
    ("rejected", [echoes(400, '{"error": {"message": "KEY"}}')]),
    ("rejected", [echoes(400, '{"KEY": "KEY"}')]),
    ("rejected", [echoes(400, '"KEY"')]),
    ("rejected", [echoes(400, "nothing but KEY")]),
    ("server_error", [echoes(200, '{"error": {"message": "KEY", "code": 500}}')]),
]


def test_the_key_is_nowhere(realign: Run, here: Path, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither printed nor written, whatever goes wrong, with all the talk that can be had."""
    monkeypatch.setenv("OPENAI_LOG", "debug")
    fates = [*FATES, *ESCAPED]
    chat_server.script = [behaviour for _, replies in fates for behaviour in replies]
    lines = "".join(json.dumps({**TAGGED[0], "id": str(i), "text": f"{i} rings"}) + "\n" for i in range(len(fates)))
    settings = [f"--set=scorer.{one}" for one in ("timeout=2", "retries=0", "concurrency=1")]
    done = realign("score", "--preset", "model.toml", *settings, "-v", "--out", "scored", input=lines, cwd=here)
    assert (done.returncode, kinds(done)) == (3, [[fate] if fate else [] for fate, _ in fates]), done.stderr
    assert "Traceback" not in done.stderr
    for secret in (KEY, escaped(KEY), KEY.replace("-", "\\u002d"), KEY.replace("-", "&#45;")):
        _find_nowhere(secret, done, here)
    assert set(chat_server.keys) == {f"Bearer {KEY}"} and not chat_server.script
    chat_server.after = status(401, f"Incorrect API key provided: {KEY}")
    done = realign(*SCORE, "-v", "--out", "again", cwd=here)
    assert done.returncode == 1 and "Incorrect API key provided: [key]; check OPENAI_API_KEY" in done.stderr
    _find_nowhere(KEY, done, here)


def _find_nowhere(secret: str, done: CompletedProcess[str], folder: Path) -> None:
    written = [path.read_text() for path in folder.rglob("*") if path.is_file()]
    assert sum("some-model" in text for text in written) > 2  # preset, run.json, replies
    assert not any(secret in text for text in [done.stdout, done.stderr, *written])


def test_the_password_of_an_address_is_nowhere(
    realign: Run, here: Path, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server.url.replace("//", "//me:my-password@"))
    chat_server.script = [answers]
    chat_server.after = status(400, "who is my-password?")
    done = realign(*SCORE, "-v", "--out", "scored", cwd=here)
    assert (done.returncode, kinds(done)) == (3, [[], ["rejected"], ["rejected"]])
    _find_nowhere("my-password", done, here)


def test_no_key_is_one_line_with_the_remedy(realign: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    done = realign(*SCORE, cwd=here)
    assert (done.returncode, done.stdout, os.environ.get("OPENAI_API_KEY")) == (2, "", None)
    assert done.stderr == ("realign score: no OPENAI_API_KEY; set it, or set OPENAI_BASE_URL to a server of your own\n")
