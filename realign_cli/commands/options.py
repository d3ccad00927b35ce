"""The options that commands share, each said once. Imports nothing heavy: help pages are built from this."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

COARSE, FINAL = "coarse", "final"  # the folders of coarse and of final images, by convention
_MODELS, _RUN, _SCREEN = "Models", "Run", "Screen"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(frozen=True)
class Screen:
    """Options of every command."""

    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel=_SCREEN)] = (
        False
    )
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.", rich_help_panel=_SCREEN)] = False
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as one line of JSON.", rich_help_panel=_SCREEN)
    ] = False


_Preset = Annotated[
    str,
    typer.Option(
        envvar="REALIGN_PRESET",
        metavar="NAME|FILE.toml",
        help="Models and numbers: sd15 (the paper's), tiny (embedded, any computer), sdxl, inception, or your own.",
        rich_help_panel=_MODELS,
    ),
]


@dataclass(frozen=True)
class Named(Screen):
    """Options of every command that has to do with models."""

    preset: _Preset = "sd15"
    overrides: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Change one setting of the preset, such as tagger.threshold=0.6. Repeatable.",
            rich_help_panel=_MODELS,
        ),
    ] = field(default_factory=list)

    @property
    def naming(self) -> str:
        """How a command that is suggested names the preset; not at all if it is the default."""
        return "" if self.preset == Named.preset else f" --preset {shlex.quote(self.preset)}"


@dataclass(frozen=True)
class Common(Named):
    """Options of every command that uses models."""

    device: Annotated[Device, typer.Option(help="Where the models run.", rich_help_panel=_MODELS)] = Device.auto


@dataclass(frozen=True)
class Embedded(Common):
    """Options of a command that is to run on any computer as it is."""

    preset: _Preset = "tiny"


@dataclass(frozen=True)
class Run(Common):
    """Options of commands that make records."""

    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep records and images in this folder; the same command continues a run that was interrupted.",
            rich_help_panel=_RUN,
        ),
    ] = None
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images at a time; the preset's, if not given.", rich_help_panel=_RUN)
    ] = None
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Only the I-th of N parts of the records; workers with a part each share --out.",
            rich_help_panel=_RUN,
        ),
    ] = None
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Try records of --out that failed once more.", rich_help_panel=_RUN),
    ] = False
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over in a folder of an earlier run.", rich_help_panel=_RUN)
    ] = False


@dataclass(frozen=True)
class Map(Run):
    """Options of commands that read records and make records."""

    source: Annotated[
        str | None,
        typer.Option(
            "--in",
            metavar="DIR|FILE|-",
            help="Records to read; - is a pipe. If not given: what is piped in, else coarse/.",
            rich_help_panel=_RUN,
        ),
    ] = None


class Backend(StrEnum):
    lavis = "lavis"


Blip = Annotated[
    Backend | None,
    typer.Option(
        "--backend",
        help="Who runs BLIP-2, if not the preset's: LAVIS, in an environment of its own (docs/lavis.md).",
        rich_help_panel=_MODELS,
    ),
]
Model = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="What realign train made: its generator instead of the preset's.", rich_help_panel=_MODELS
    ),
]


def spread(function: Callable[..., None]) -> Callable[..., None]:
    """Let a command take a dataclass of options as its first argument, while Typer sees the single fields."""
    parameters = list(inspect.signature(function).parameters.values())
    hints = get_type_hints(function, include_extras=True)
    options = hints[parameters[0].name]
    types = get_type_hints(options, include_extras=True)
    screen = {one.name for one in fields(Screen)}
    declared = sorted(fields(options), key=lambda one: one.name in screen)  # in a help page they come last

    def command(**given: Any) -> None:
        shared = {one.name: given.pop(one.name) for one in fields(options)}
        function(options(**shared), **given)

    own = [p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY) for p in parameters[1:]]
    shared = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=one.default if one.default is not MISSING else one.default_factory(),  # type: ignore[operator]
            annotation=types[one.name],
        )
        for one in declared
    ]
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = inspect.Signature(own + shared)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in own + shared}
    return command


def arguments(function: Callable[..., None], options: Screen, **given: Any) -> list[str]:
    """The words of a command line, without the command's name, that call a command with these options.

    Defaults are written too, because the environment of whoever reads the words may say otherwise.
    """
    program = typer.Typer(add_completion=False)
    program.command()(spread(function))
    values = {**vars(options), **given}
    words = []
    for parameter in typer.main.get_command(program).params:
        value, name = values.get(str(parameter.name)), max(parameter.opts, key=len)
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            words += [f"{name}={one}" for one in (value if isinstance(value, list) else [value])]
    return words
