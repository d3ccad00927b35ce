"""The wheel: everything that a run needs, and nothing of what trains the embedded models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

backend = pytest.importorskip("hatchling.build", reason="hatchling, which builds the wheel, is not installed")

ROOT = Path(__file__).parents[1]
TRAINERS = "realign_cli/tinyworld/train/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this repository and unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        built = folder / backend.build_wheel(str(folder))
    unpacked = folder / "unpacked"
    with zipfile.ZipFile(built) as archive:
        archive.extractall(unpacked)
    return unpacked


def files(root: Path) -> set[str]:
    paths = (path for path in (root / "realign_cli").rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return {path.relative_to(root).as_posix() for path in paths}


def test_the_wheel_is_the_package_without_the_trainers(wheel: Path) -> None:
    ours = files(ROOT)
    trainers = {name for name in ours if name.startswith(TRAINERS)}
    assert f"{TRAINERS}__main__.py" in trainers
    assert files(wheel) == ours - trainers


def test_no_module_of_the_wheel_needs_a_trainer(wheel: Path) -> None:
    """Each is imported from the wheel, where the trainers are missing."""
    code = """
import importlib, json, pkgutil, sys
import realign_cli
for module in pkgutil.walk_packages(realign_cli.__path__, "realign_cli."):
    importlib.import_module(module.name) if module.name != "realign_cli.__main__" else None
print(json.dumps({name: module.__file__ for name, module in sys.modules.items() if name.startswith("realign_cli")}))
"""
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=wheel, env=environment)
    assert done.returncode == 0, done.stderr
    imported = {Path(path).relative_to(wheel).as_posix() for path in json.loads(done.stdout).values()}
    assert imported == {name for name in files(wheel) if name.endswith(".py")} - {"realign_cli/__main__.py"}
