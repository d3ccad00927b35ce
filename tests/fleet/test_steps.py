"""Chains of commands: what several share is done once, what was done is not done again, and what failed is told.

Real processes of a command that is soon over.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from threading import Event

import psutil
import pytest

from realign_cli.errors import RealignError
from realign_cli.fleet.steps import Spent, Step, Taken, execute_here, independent, read_account, run_step, take

execute = partial(execute_here, stop=Event())

FIRST = Step("first", ("prompts", "shapes", "-n", "2"))
SECOND = Step("second", ("prompts", "cc500", "--in", "{root}first", "-q"))
THIRD = Step("third", ("prompts", "cc500", "--in", "{root}nowhere"))
CHAINS = {"short": (FIRST,), "long": (FIRST, SECOND), "broken": (FIRST, THIRD, Step("never", ("prompts", "shapes")))}


def run(root: Path) -> tuple[Taken, list[str]]:
    """What became of CHAINS, and the steps that were taken now."""
    now: list[str] = []
    taken = take(
        CHAINS,
        root,
        lambda step: step.command(root, root, 1),
        execute,
        lambda step, spent: now.extend([step.out] * bool(spent)),
    )
    return taken, now


def test_chains(tmp_path: Path) -> None:
    taken, now = run(tmp_path)
    assert now == ["first", "second"] and set(taken.spent) == {"first", "second"}
    assert set(taken.failed) == {"broken"} and taken.failed["broken"].startswith("third: ")
    assert "nowhere: No such file" in taken.failed["broken"] and not (tmp_path / "never").exists()
    assert all(spent.seconds and spent.memory > 10e6 for spent in taken.spent.values())
    again, now = run(tmp_path)
    assert now == [] and again == taken
    (tmp_path / "second").unlink()  # first has not changed and is not made again
    again, now = run(tmp_path)
    assert now == ["second"] and again.spent["first"] == taken.spent["first"]


def test_accounts(tmp_path: Path) -> None:
    words = ["prompts", "shapes", "-n", "1", "--out", str(tmp_path / "out")]
    account = tmp_path / "steps" / "out.json"
    assert run_step(words, account, execute, begun=True).seconds is None  # of what was begun before nobody knows all
    spent = run_step(words, account, execute, begun=False)
    assert isinstance(spent, Spent) and read_account(words, account) == spent
    assert read_account([*words, "-q"], account) is None and read_account(words, tmp_path / "none.json") is None
    account.write_text("{")
    assert read_account(words, account) is None
    with pytest.raises(RealignError, match="no such preset"):
        run_step(["download", "--preset", "none"], account, execute, begun=False)


def test_words_are_filled_in(tmp_path: Path) -> None:
    step = Step("here", ("generate", "--prompts", "{prompts}", "--seed", "{seed}", "--model", "{odd}"))
    prompts = tmp_path / "{seed}.txt"
    assert step.command(tmp_path, prompts, 7) == [
        *("generate", "--prompts", str(prompts), "--seed", "7", "--model", "{odd}"),
        *("--out", f"{tmp_path}/here"),
    ]


def test_chains_that_share_a_step_stay_together() -> None:
    one, two, three, four = (Step(name, ()) for name in "abcd")
    chains = {"first": (one,), "second": (two,), "third": (three, four), "fourth": (one, four), "fifth": (two,)}
    first, second = independent(chains)
    assert set(first) == {"first", "third", "fourth"} and set(second) == {"second", "fifth"}
    assert first | second == chains


def test_a_command_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "prompts.txt")  # which nobody writes, so that its reader waits for ever
    words = Step("out", ("generate", "--prompts", "{prompts}")).command(tmp_path, tmp_path / "prompts.txt", 1)
    stop, me = Event(), psutil.Process()
    before = me.children()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        execute_here(words, stop)
    assert me.children() == before
