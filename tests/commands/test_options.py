"""Options that were parsed can be written as words again, and the words say the same wherever they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from realign_cli.commands import run as command
from realign_cli.commands.options import RunOptions, arguments, with_options

OF_ITS_OWN = {
    **{"prompts": Path("-my prompts.txt"), "seed": 0, "model": None, "keep": "best"},
    **{"steps": 3, "guidance": 2.5, "size": "96x64"},
}


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `realign run` is called with."""
    found: dict[str, Any] = {}
    program = typer.Typer()
    function = with_options(command.run)
    signature = function.__signature__  # type: ignore[attr-defined]

    def keep(**given: Any) -> None:
        found.update(given)

    keep.__signature__, keep.__annotations__ = signature, function.__annotations__  # type: ignore[attr-defined]
    program.command()(keep)
    with monkeypatch.context() as patch:
        patch.setenv("REALIGN_PRESET", "sdxl")
        program(words, standalone_mode=False)
    return found


@pytest.mark.parametrize(
    "options",
    [
        RunOptions(out=Path("out")),
        RunOptions(
            quiet=True,
            preset="./mine.toml",
            overrides=["generator.steps=2", "scorer.prompt=--a = b--"],
            device="cpu",
            out=Path("--an out/"),
            batch_size=3,
            shard="2/7",
            retry_failed=True,
        ),
    ],
    ids=["defaults", "all"],
)
def test_words_say_what_was_parsed(options: RunOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the default preset, where the environment names another."""
    words = arguments(command.run, options, **OF_ITS_OWN)
    rest = {"evaluate": False, "workers": 1, "engine": "local", "address": None, "tries": None, "good_enough": None}
    assert parsed(words, monkeypatch) == {**vars(options), **OF_ITS_OWN, **rest}
