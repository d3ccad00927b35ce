"""`realign run --tries`: the same bytes from any number of shards, and without mending what best of N gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.runs import Run, product, records, succeed

PROMPTS = (
    "a red circle and a blue square\na green ring above a yellow triangle\na pink cross\na cyan ring and a red cross\n"
)
QUICK = ("--prompts", "prompts.txt", "--set", "generator.steps=4", "-q")


@pytest.fixture(scope="module")
def here(realign: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which whole/ is a run of three tries; read it only."""
    folder = tmp_path_factory.mktemp("loop")
    (folder / "prompts.txt").write_text(PROMPTS)
    succeed(realign("run", *QUICK, "--out", "whole", "--tries", 3, cwd=folder))
    return folder


@pytest.mark.parametrize("count", [2, 3])
def test_shards_give_the_same_bytes(realign: Run, here: Path, count: int) -> None:
    for shard in range(1, count + 1):
        done = realign("run", *QUICK, "--out", f"by-{count}", "--tries", 3, "--shard", f"{shard}/{count}", cwd=here)
        succeed(done)
    assert product(here / f"by-{count}") == product(here / "whole")


def test_a_record_tells_what_was_spent_and_why_it_stopped(realign: Run, here: Path) -> None:
    for record in records(here / "whole" / "final"):
        made, kept = record["tries"]["made"], record["tries"]["kept"]
        rewards = [one["caption"]["reward"] for one in made]
        assert record["cost"] == {"passes": len(made), "steps": 4 * len(made)}
        assert record["caption"] == made[kept]["caption"] and rewards.index(max(rewards)) == kept
        assert (record["tries"]["stop"] == "good") == (rewards[kept] >= 0.95)
        assert len(made) == 3 or record["tries"]["stop"] == "good"
    shown = succeed(realign("status", "whole", "--json", cwd=here))
    (shard,) = json.loads(shown.stdout)[1]["shards"]
    assert shard["good"] + shard["exhausted"] == shard["done"] == 4
    assert "exhausted" in succeed(realign("status", "whole", cwd=here)).stdout


def test_without_mending_it_is_best_of_n(realign: Run, shell: Run, here: Path) -> None:
    """As far as the loop draws: it stops at a good one, and best of N does not."""
    never = ("--good-enough", 2, "--set", "loop.mend=false")
    succeed(realign("run", *QUICK, "--out", "drawn", "--tries", 3, *never, cwd=here))
    words = " ".join(QUICK)
    piped = f"realign generate {words} --images-per-prompt 3 --out three | realign caption-reward -q"
    succeed(shell(f"{piped} | realign select -q --out best", here))
    loop, best = records(here / "drawn" / "final"), records(here / "best")
    for ours, theirs in zip(loop, best, strict=True):
        assert (ours["id"], ours["caption"], ours["cost"]) == (theirs["prompt_id"], theirs["caption"], theirs["cost"])
        images = (here / "drawn" / "final" / ours["file_name"], here / "best" / theirs["file_name"])
        assert images[0].read_bytes() == images[1].read_bytes()


def test_another_number_of_tries_is_another_run(realign: Run, here: Path) -> None:
    done = realign("run", *QUICK, "--out", "whole", "--tries", 4, cwd=here)
    assert done.returncode == 2 and "settings.loop.tries (3 before, 4 now); --overwrite starts over" in done.stderr
