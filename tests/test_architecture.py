"""The floors of the house, held by the imports of every file: arrows point down only, and help pages load no model."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from realign_cli.app import app

PACKAGE = Path(__file__).parents[1] / "realign_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A floor -> what it may import of ours. A module belongs to the longest name here that its own begins with.
FLOORS = {
    "__init__": set(),
    "__main__": {"app", "safe_path"},
    "app": {"__init__", "commands", "options", "plumbing", "errors", "safe_path"},
    "safe_path": set(),
    "commands": {
        *("commands", "stages", "plumbing", "registry", "options", "presets", "errors", "records", "roles"),
        "tinyworld",
    },
    "stages": {"stages", "equations", "roles", "records", "errors"},
    "plumbing": {"__init__", "plumbing", "records", "errors"},
    "registry": {"presets", "roles", "errors"},
    "models": {"models", "roles", "equations", "records", "errors"},
    "presets": {"presets", "roles", "errors"},
    "roles": {"records", "errors"},
    "records": {"errors"},
    "equations": set(),
    "options": set(),
    "errors": set(),
    "tinyworld": {"tinyworld"},
    "tinyworld.__main__": {"tinyworld", "plumbing", "records", "errors"},
    "tinyworld.train": {"tinyworld", "tinyworld.train", "models", "equations", "plumbing"},
}


def imports(source: str) -> set[str]:
    """The names below `realign_cli` that a file imports anywhere in it, such as "plumbing.source"; "" is the root."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    ours = (name.partition("realign_cli.")[2] for name in found if name.split(".")[0] == "realign_cli")
    return {"" if name.startswith("__") else name for name in ours}


def floor(name: str) -> str:
    name = name or "__init__"
    return max((one for one in FLOORS if f"{name}.".startswith(f"{one}.")), key=len)


def test_every_module_is_on_the_floor_of_the_longest_name() -> None:
    names = ("", "app", "plumbing.source", "tinyworld.scenes", "tinyworld.__main__", "tinyworld.train.fit")
    floors = ["__init__", "app", "plumbing", "tinyworld", "tinyworld.__main__", "tinyworld.train"]
    assert [floor(name) for name in names] == floors


def ours() -> Iterator[tuple[Path, set[str]]]:
    for path in MODULES:
        yield path.relative_to(PACKAGE), imports(path.read_text())


def test_imports_are_seen_wherever_they_stand() -> None:
    source = """
import realign_cli.app
from realign_cli import __version__, presets
if TYPE_CHECKING:
    from realign_cli.roles import Models
def late():
    from realign_cli.plumbing import source as sources
    import torch
"""
    assert imports(source) == {"app", "", "presets", "roles.Models", "plumbing.source"}


def test_arrows_point_down() -> None:
    wrong = [
        f"{path} imports {name or 'realign_cli'}"
        for path, names in ours()
        for name in names
        if floor(name) not in FLOORS[floor(".".join(path.with_suffix("").parts))]
    ]
    assert not wrong


def test_the_tiny_world_stays_apart() -> None:
    """Only its prompts, pictures and words are borrowed."""
    importers = {
        (str(path), name)
        for path, names in ours()
        if path.parts[0] != "tinyworld"
        for name in names
        if floor(name) == "tinyworld"
    }
    borrowers = ("commands/demo.py", "commands/prompts.py")
    assert importers == {
        *((path, "tinyworld.scenes.held_out_prompts") for path in borrowers),
        *(
            ("commands/train.py", f"tinyworld.scenes.{name}")
            for name in ("Scene", "careless_examples", "render", "training_prompts", "words")
        ),
    }


def test_no_stage_can_consult_the_oracle() -> None:
    importers = {path for path, names in ours() if any(name.startswith("tinyworld.oracle") for name in names)}
    assert all(path.parts[:2] == ("tinyworld", "train") for path in importers)
    mentions = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".toml") and "tinyworld.oracle" in path.read_text()
    ]
    assert set(mentions) - {str(path) for path in importers} == {"presets/tiny.toml"}


HEAVY = {
    "torch",
    "numpy",
    "diffusers",
    "transformers",
    "open_clip",
    "scipy",
    "PIL",
    "matplotlib",
    "ray",
}  # Typer itself loads pydantic
COMMANDS = [[], *([name] for name in sorted(typer.main.get_command(app).commands)), ["eval", "stats"]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "realign")
def test_help_loads_no_model(command: list[str]) -> None:
    code = f"""
import json, sys
from realign_cli.app import app
try:
    app({[*command, "--help"]!r})
finally:
    print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "Usage:" in done.stdout
    loaded = set(json.loads(done.stderr))
    assert "realign_cli" in loaded
    assert not loaded & HEAVY
