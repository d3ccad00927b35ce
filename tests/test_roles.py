"""The table of roles, and what must be in step with it: attributes, presets, adapters, stages, commands."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Protocol, get_type_hints

import pytest

from realign_cli import presets, roles
from realign_cli.commands import _stages
from realign_cli.errors import first_line
from realign_cli.registry import Models, is_metric, metric_sections
from realign_cli.roles import ROLES


def test_the_attributes_of_models_are_the_roles() -> None:
    assert get_type_hints(roles.Models) == {name: role.protocol for name, role in ROLES.items()}
    with pytest.raises(AttributeError, match="Models has no tager"):
        _ = Models(presets.load("tiny")).tager  # type: ignore[attr-defined]


@pytest.mark.parametrize("preset", ["tiny", "sd15"])
def test_adapters_have_what_their_roles_ask_for(preset: str) -> None:
    """Class attributes only: what is set as a model is built is not looked at."""
    loaded = presets.load(preset)
    kinds = {name: role.protocol for name, role in ROLES.items()}
    kinds |= dict.fromkeys(metric_sections(loaded), roles.ImageTextMetric)
    for name, protocol in kinds.items():
        section = ROLES[name].section if name in ROLES else name
        module, _, adapter = loaded.section(section)["adapter"].partition(":")
        kind = getattr(import_module(module), adapter)
        methods = [part for part in roles.parts(protocol) if inspect.isfunction(vars(protocol).get(part))]
        assert methods and [part for part in methods if not callable(getattr(kind, part, None))] == [], name


def test_every_protocol_says_what_it_is() -> None:
    protocols = [one for one in vars(roles).values() if getattr(one, "_is_protocol", False)]
    protocols.remove(Protocol)
    assert {role.protocol for role in ROLES.values()} < set(protocols)
    for one in protocols:
        methods = [part for name in roles.parts(one) if inspect.isfunction(part := vars(one).get(name))]
        assert [part for part in (one, *methods) if not part.__doc__] == []


def test_stages_use_sections_of_roles() -> None:
    sections = {role.section for role in ROLES.values()}
    used = {name for sections in _stages.STAGES.values() for name in sections}
    assert used == sections - {"fid", "parser"} | {"refine"}  # the numbers of the method; plain images parse nothing
    assert _stages.models_on_gpu() == 6
    held = _stages.sections_held(presets.load("tiny"))
    assert held["eval"] == ("clip", "negclip", "blip", "oracle", "fid")
    assert set(held["refine"]) == used - {"rewriter"}


def test_which_sections_are_metrics() -> None:
    preset = presets.load("tiny").with_adapters(["collections:Counter"])
    assert [name for name in preset.sections if is_metric(preset, name)] == ["clip", "negclip", "blip", "oracle"]
    assert "collections:Counter" in metric_sections(preset)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("no such file.\nsee the manual", "no such file"),
        ("\n  torn at 7  \n", "torn at 7"),
        (
            "Error(s) in loading:\n\n\tsize mismatch for x\n\tsize mismatch for y",
            "Error(s) in loading: size mismatch for x",
        ),
        ("", "OSError"),
    ],
)
def test_what_a_library_says_fits_into_a_line(said: str, line: str) -> None:
    assert first_line(OSError(said)) == line
