"""The floors of the house, held by the imports of every file: arrows point down only, and help pages load no model."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Collection
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import typer

from realign_cli.app import app

PACKAGE = Path(__file__).parents[1] / "realign_cli"
# The floors of the house, from the top. A room may import itself and rooms of lower floors, and none beside it.
FLOORS = (
    "__main__",
    "app",
    "commands tinyworld.train",
    "report study",
    "training evaluation fleet tinyworld",
    "runs",
    "stages models.diffusion models.vision models.vision_language models.language",
    "models data registry pictures pages",
    "files presets roles",
    "records settings console",
    "equations errors safe_path __init__",
)
# Beyond that: what a stage or a measurement means needs no paths and no screen, and adapters are loaded by their names.
APART = {
    "stages": "data files console registry presets",
    **dict.fromkeys(
        ("evaluation.evaluate", "evaluation.compare", "evaluation.distance"), "data files console registry"
    ),
    **dict.fromkeys(
        tuple(f"training.{name}" for name in ["method", "feedback", "denoising", "on_policy", "examples", "rewards"]),
        "data files console registry runs",
    ),
    **dict.fromkeys(("commands", "report", "study", "training", "evaluation", "fleet", "runs"), "models"),
}
LEVELS = {room: len(FLOORS) - number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
Arrows = set[tuple[str, str]]  # a module and one that it imports, such as ("stages.tag", "records")


def imports(source: str) -> set[str]:
    """The names below `realign_cli` that a file imports anywhere in it, such as "data.records.Entry"."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return {name.partition("realign_cli.")[2] for name in found if name.split(".")[0] == "realign_cli"}


def longest(name: str, of: Collection[str]) -> str:
    """The longest of some dotted names with which `name` begins."""
    return max((one for one in of if f"{name}.".startswith(f"{one}.")), key=len, default="__init__")


def arrows() -> Arrows:
    found = {(module, longest(name, MODULES)) for module, path in MODULES.items() for name in imports(path.read_text())}
    return {(module, other) for module, other in found if module != other}


def faults(arrows: Arrows) -> list[str]:
    """The arrows that point up, to the side or to where they must not, and a circle, if there is one."""
    found = []
    for module, other in sorted(arrows):
        room, into = longest(module, LEVELS), longest(other, LEVELS)
        if room != into and LEVELS[into] >= LEVELS[room]:
            found.append(f"{module} imports {other}, which is not below it")
        if any(longest(other, [one]) == one for one in APART.get(longest(module, APART), "").split()):
            found.append(f"{module} imports {other}, from which it is kept apart")
    graph = TopologicalSorter[str]()
    for module, other in sorted(arrows):
        graph.add(module, other)
    try:
        graph.prepare()
    except CycleError as error:
        found.append(f"a circle: {' <- '.join(error.args[1])}")
    return found


def test_every_room_has_a_floor() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - LEVELS.keys() == set()
    assert {room.split(".")[0] for room in LEVELS} == rooms


def test_imports_are_seen_wherever_they_stand() -> None:
    source = """
import realign_cli.app
from realign_cli import __version__, presets
if TYPE_CHECKING:
    from realign_cli.roles import Models
def late():
    from realign_cli.data import records as sources
    import torch
"""
    assert imports(source) == {"app", "__version__", "presets", "roles.Models", "data.records"}


def test_arrows_point_down() -> None:
    assert faults(arrows()) == []


@pytest.mark.parametrize(
    ("arrow", "fault"),
    [
        (("data.records", "commands.tag"), "data.records imports commands.tag, which is not below it"),
        (("training.loop", "evaluation.session"), "training.loop imports evaluation.session, which is not below it"),
        (("stages.tag", "files.atomic"), "stages.tag imports files.atomic, from which it is kept apart"),
        (("runs.runner", "models.batches"), "runs.runner imports models.batches, from which it is kept apart"),
        (("runs.journal", "runs.folder"), "a circle: "),
    ],
)
def test_a_wrong_arrow_is_seen(arrow: tuple[str, str], fault: str) -> None:
    assert any(found.startswith(fault) for found in faults(arrows() | {arrow}))


def test_the_tiny_world_stays_apart() -> None:
    """Only its prompts, pictures and words are borrowed."""
    importers = {
        (module, name)
        for module, path in MODULES.items()
        if not module.startswith("tinyworld")
        for name in imports(path.read_text())
        if name.startswith("tinyworld")
    }
    borrowers = ("commands.demo", "commands.prompts")
    assert importers == {
        *((module, "tinyworld.scenes.held_out_prompts") for module in borrowers),
        *(
            ("commands.train", f"tinyworld.scenes.{name}")
            for name in ("Scene", "careless_examples", "render", "training_prompts", "words")
        ),
    }


def test_no_stage_can_consult_the_oracle() -> None:
    importers = {module for module, other in arrows() if other == "tinyworld.oracle"}
    assert all(module.startswith("tinyworld.train.") for module in importers)
    mentions = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".toml") and "tinyworld.oracle" in path.read_text()
    ]
    importing = {str(MODULES[module].relative_to(PACKAGE)) for module in importers}
    assert set(mentions) - importing == {"presets/tiny.toml"}


HEAVY = {
    "torch",
    "numpy",
    "diffusers",
    "transformers",
    "open_clip",
    "scipy",
    "PIL",
    "jinja2",
    "matplotlib",
    "ray",
    "starlette",
    "uvicorn",
    "krippendorff",
    "sqlite3",
}  # Typer itself loads pydantic
COMMANDS = [
    [],
    *([name] for name in sorted(typer.main.get_command(app).commands)),
    ["eval", "stats"],
    ["study", "make"],
]  # type: ignore[attr-defined]


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
