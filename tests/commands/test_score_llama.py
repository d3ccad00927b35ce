"""`realign score` against a real server, llama.cpp's, that holds a model of random weights to a schema."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

PROMPTS = {
    "a red square and a blue circle": ["circle", "square", "polar bear"],
    'a "small" caf\u00e9 beside a dog\u2019s \\ bowl': ["dog", "caf\u00e9", 'a "bowl"'],
    "\u4e00\u4e2a\u7ea2\u8272\u7684\u65b9\u5757\u548c\u4e00\u4e2a\u84dd\u8272\u7684\u5706": ["square"],
    "a man in white, who rides a brown horse past two old houses and a red-and-white bus in the rain": [
        "horse",
        "man",
        "house",
        "bus",
        "umbrella",
        "street",
    ],
    "dog": ["dog"],
    " ".join(f"a {n} tiger and a house," for n in range(60)): ["tiger", "house"],
}


@pytest.fixture(scope="module")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address. It ends with the pipe to it, also if the tests are killed."""
    script = Path(__file__).parents[1] / "llama_server.py"
    folder = tmp_path_factory.mktemp("llama")
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, script, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as server,
    ):
        assert server.stdin and server.stdout
        address = server.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), (folder / "log").read_text()
        yield address
        server.stdin.close()


@pytest.mark.parametrize(("mode", "scorer", "count"), [("single", "noise", 6), ("two-turn", "rules", 2)])
def test_a_model_of_noise_answers_validly_where_it_is_held_to_the_schema(
    realign: Run, llama_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, scorer: str, count: int
) -> None:
    """And never where it is not: it is the schema, and nothing in the model."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{llama_server}/v1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "model.toml").write_text(
        '[scorer]\nadapter = "realign_cli.models.language.llm_scorer:LanguageModelScorer"\ncheckpoint = "noise"\n'
        f'mode = "{mode}"\nretries = 0\n'
    )
    asked = list(PROMPTS.items())[:count]
    lines = [
        json.dumps({"text": text, "id": str(n), "tags": [{"label": tag, "confidence": 0.9} for tag in tags]})
        for n, (text, tags) in enumerate(asked)
    ]
    done = realign("score", "--preset", "model.toml", input="\n".join(lines), cwd=tmp_path)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert {record["scorer"] for record in records} == {scorer}, done.stderr
    assert done.returncode == (0 if scorer == "noise" else 3)
    for record, (text, tags) in zip(records, asked, strict=True):
        assert sorted(one["label"] for one in record["objects"]) == sorted(tags)
        assert all(one["phrase"] in text for one in record["objects"])
    if scorer == "noise":
        kept = [json.loads(path.read_text()) for path in (tmp_path / "cache" / "realign" / "replies").iterdir()]
        said = [
            json.loads(one["reply"]["choices"][0]["message"]["content"].strip("`json \n"))
            for one in kept
            if isinstance(one, dict)
        ]
        assert sorted(sorted(answer) for answer in said) == sorted(sorted(tags) for _, tags in asked)
        assert any(binding["phrase"] for answer in said for binding in answer.values())
