"""Write docs/cli.md from the commands: `python docs/make_cli.py`.

It reads what the commands declare and not what a help page shows, which differs from one version of Typer to the next.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from enum import EnumType
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from typer.main import get_command
from typer.models import ArgumentInfo

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cli.md"


def page() -> str:
    """The help of `realign` and of each command as Markdown."""
    sys.path.insert(0, str(ROOT))
    from realign_cli.app import app, main

    parts = ["# Commands", "Made by `python docs/make_cli.py` from the commands.", "## realign"]
    parts += [_prose(inspect.getdoc(main) or ""), "Every command has `--help`."]
    for name, command in _commands(app):
        parts += [f"## realign {name}", _prose(command.help), _options(command.callback)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _commands(app: Any) -> Iterator[tuple[str, Any]]:
    """Each command with its name, in the order of the help page; one with subcommands comes before them."""
    single = {command.name: command for command in app.registered_commands}
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    for name in get_command(app).list_commands(None):
        if name in single:
            yield name, single[name]
            continue
        yield name, groups[name].registered_callback
        yield from ((f"{name} {command.name}", command) for command in groups[name].registered_commands)


def _prose(text: str) -> str:
    """Paragraphs as they are, examples as code."""
    paragraphs = text.replace("[bold]", "`").replace("[/bold]", "`").split("\n\n")
    return "\n\n".join(f"    {one}" if one.startswith("realign ") else one for one in paragraphs)


def _options(command: Callable[..., Any]) -> str:
    rows = ["| option | value | default | |", "|---|---|---|---|"]
    for name, parameter in inspect.signature(command).parameters.items():
        if name == "context":
            continue
        kind, option = get_args(parameter.annotation)
        declared = [one for one in (option.default, *(option.param_decls or ())) if isinstance(one, str)]
        usual = name if isinstance(option, ArgumentInfo) else f"--{name.replace('_', '-')}"
        names = ", ".join(f"`{one}`" for one in declared or [usual])
        default = parameter.default
        silent = default is None or default is False or default == []
        told = "required" if default is parameter.empty else "" if silent else f"`{default}`"
        said = f"{option.help} Environment: `{option.envvar}`." if option.envvar else option.help
        cells = [names, _value(kind, option.metavar), told, said]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) if len(rows) > 2 else ""


def _value(kind: Any, metavar: str | None) -> str:
    """What follows the option: nothing after a switch."""
    if NoneType in get_args(kind):  # it may be left out
        kind = next(one for one in get_args(kind) if one is not NoneType)
    if kind is bool:
        return ""
    if isinstance(kind, EnumType):
        return "|".join(kind)
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return metavar or "number"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
