"""`realign rewrite`: careless prompts come out plain, generate draws these, and all else goes by what was asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

Run = Callable[..., CompletedProcess[str]]
PROMPTS = {"red-coloured square plus circle blue": "a red square and a blue circle", "pink ring": "a pink ring"}
QUICK = ("--set", "generator.steps=1", "-q")


def lines(text: str) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in text.splitlines()]


def test_prompts_in_prompts_out_images_of_these(realign: Run, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    (tmp_path / "plain.txt").write_text("\n".join(PROMPTS.values()))
    done = realign("rewrite", "--prompts", "prompts.txt", "--out", "rewritten", cwd=tmp_path)
    assert done.returncode == 0 and "--prompts rewritten/metadata.jsonl" in done.stderr, done.stderr
    found = lines((tmp_path / "rewritten" / "metadata.jsonl").read_text())
    assert {line["text"]: line["rewritten"] for line in found} == PROMPTS and all("seed" not in line for line in found)

    words = ("generate", *QUICK, "--seed", 7, "--out")
    assert realign(*words, "by", "--prompts", "rewritten/metadata.jsonl", cwd=tmp_path).returncode == 0
    assert realign(*words, "plain", "--prompts", "plain.txt", cwd=tmp_path).returncode == 0
    drawn = lines((tmp_path / "by" / "metadata.jsonl").read_text())
    assert [(line["text"], line["rewritten"]) for line in drawn] == list(PROMPTS.items())
    for line in drawn:  # the image is that of the plain prompt, from the noise of its own seed and id
        assert line["seed"] == 7
        assert (tmp_path / "by" / line["file_name"]).read_bytes() == (
            tmp_path / "plain" / line["file_name"]
        ).read_bytes()

    done = realign("eval", "--in", "by", "--baseline", "plain", "--metrics", "clip", "--out", "eval", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    here, plain = (lines((tmp_path / "eval" / f"{name}scores.jsonl").read_text()) for name in ("", "baseline_"))
    assert here[0]["clip"] != plain[0]["clip"]  # of the same image, by what was asked

    done = realign(
        "generate",
        "--prompts",
        "rewritten/metadata.jsonl",
        "--method",
        "attend",
        *QUICK,
        "--out",
        "attend",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (first, _) = lines((tmp_path / "attend" / "metadata.jsonl").read_text())
    assert first["phrases"] == ["a red square", "a blue circle"]


def test_a_prompt_without_a_rewriting_stays(realign: Run, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("pink ring\n" + "red " * 60)
    done = realign("rewrite", "--prompts", "prompts.txt", "-q", cwd=tmp_path)
    short, long = lines(done.stdout)
    assert done.returncode == 3 and short["rewritten"] == "a pink ring" and "failures" not in short
    assert long["rewritten"] == long["text"] == ("red " * 60).strip()
    (failure,) = long["failures"]
    assert (failure["stage"], failure["kind"], failure["recovered"]) == ("rewrite", "no_rewriting", True)
