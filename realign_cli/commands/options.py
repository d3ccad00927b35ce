"""The options that commands share, each said once. Imports nothing heavy: help pages are built from this."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

COARSE, FINAL = "coarse", "final"  # the folders of coarse and of final images, by convention
_MODELS, _RUN, _OUTPUT = "Models", "Run", "Output"
WORKERS = "Workers"
Device = Literal["auto", "cpu", "cuda"]
Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class OutputOptions:
    """Options of every command."""

    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only show errors.", rich_help_panel=_OUTPUT)] = False
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Also show log messages, warnings of libraries, and the traceback of an error.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Write the summary to stdout as a line of JSON, and nothing else.", rich_help_panel=_OUTPUT
        ),
    ] = False


_Preset = Annotated[
    str,
    typer.Option(
        envvar="REALIGN_PRESET",
        metavar="NAME|FILE.toml",
        help="Models and settings: sd15 (the paper's), sdxl, tiny and tiny-xl (any computer), inception, or your own.",
        rich_help_panel=_MODELS,
    ),
]


@dataclass(frozen=True)
class PresetOptions(OutputOptions):
    """Options of every command that concerns models."""

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
    def preset_argument(self) -> str:
        """The option with which a suggested command names the preset; empty for the default."""
        return "" if self.preset == PresetOptions.preset else f" --preset {shlex.quote(self.preset)}"


@dataclass(frozen=True)
class ModelOptions(PresetOptions):
    """Options of every command that uses models."""

    device: Annotated[Device, typer.Option(help="Device that the models run on.", rich_help_panel=_MODELS)] = "auto"


@dataclass(frozen=True)
class TinyOptions(ModelOptions):
    """Options of a command that runs on any computer as it is."""

    preset: _Preset = "tiny"


@dataclass(frozen=True)
class RunOptions(ModelOptions):
    """Options of commands that make records."""

    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for records and images; the same command continues an interrupted run.",
            rich_help_panel=_RUN,
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of records worked on together; by default the preset's.", rich_help_panel=_RUN
        ),
    ] = None
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Work only on the I-th of N parts of the records; workers with a part each share --out.",
            rich_help_panel=_RUN,
        ),
    ] = None
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Try again the records of --out that failed.", rich_help_panel=_RUN),
    ] = False
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the earlier run in --out and start over.", rich_help_panel=_RUN)
    ] = False


@dataclass(frozen=True)
class MapOptions(RunOptions):
    """Options of commands that read records and make records."""

    source: Annotated[
        str | None,
        typer.Option(
            "--in",
            metavar="DIR|FILE|-",
            help="Records to read; - is stdin. By default what is piped in, else coarse/.",
            rich_help_panel=_RUN,
        ),
    ] = None


BackendOption = Annotated[
    Literal["lavis"] | None,
    typer.Option(
        "--backend",
        help="Library that runs BLIP-2: LAVIS, in an environment of its own (docs/lavis.md); by default the preset's.",
        rich_help_panel=_MODELS,
    ),
]
MapsOption = Annotated[
    bool,
    typer.Option("--maps", help="Keep where the image attended to each noun phrase of the prompt, and its attributes."),
]
MapWordsOption = Annotated[
    str | None, typer.Option(metavar="WORD,...", help="With --maps: words or phrases that have maps as well.")
]
EngineOption = Annotated[
    Engine,
    typer.Option(help="Where workers run: processes of this computer, or a Ray cluster.", rich_help_panel=WORKERS),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT|auto",
        help="Address of a running Ray cluster; by default one is started.",
        rich_help_panel=WORKERS,
    ),
]
ModelOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of a model that realign train made, to use in place of the preset's generator.",
        rich_help_panel=_MODELS,
    ),
]


StepsOption = Annotated[
    int | None,
    typer.Option(help="Denoising steps of an image. By default the preset's.", rich_help_panel=_MODELS),
]
GuidanceOption = Annotated[
    float | None,
    typer.Option(help="Scale of classifier-free guidance. By default the preset's.", rich_help_panel=_MODELS),
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|WIDTHxHEIGHT", help="Size of images in pixels. By default the preset's.", rich_help_panel=_MODELS
    ),
]


def drawing(steps: int | None, guidance: float | None, size: str | None) -> dict[str, Any]:
    """What options say of the generator, as settings of its section.

    Raises:
        UsageError: one of them is out of range.
    """
    from pydantic import ValidationError

    from realign_cli.errors import UsageError
    from realign_cli.presets.schema import Generator, describe_errors

    sized = int(size) if size and size.isdecimal() else size
    given = {"steps": steps, "guidance": guidance, "size": sized}
    settings = {name: value for name, value in given.items() if value is not None}
    try:
        Generator.model_validate(settings)
    except ValidationError as error:
        raise UsageError(f"--{describe_errors(error)}") from None
    return settings


def check_address(address: str | None, engine: Engine) -> None:
    """Refuse the address of a cluster that nothing would go to.

    Raises:
        UsageError: with the option that is missing.
    """
    from realign_cli.errors import UsageError

    if address and engine != "ray":
        raise UsageError("--address names a Ray cluster: give --engine ray too")


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """Let a command take a dataclass of options as its first argument, while Typer sees the single fields."""
    parameters = list(inspect.signature(function).parameters.values())
    hints = get_type_hints(function, include_extras=True)
    options = hints[parameters[0].name]
    types = get_type_hints(options, include_extras=True)
    output = {one.name for one in fields(OutputOptions)}
    declared = sorted(fields(options), key=lambda one: one.name in output)  # in a help page they come last

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


def arguments(function: Callable[..., None], options: OutputOptions, **given: Any) -> list[str]:
    """The words of a command line, without the command's name, that call a command with these options.

    Defaults are written too, because the environment of whoever reads the words may say otherwise.
    """
    program = typer.Typer(add_completion=False)
    program.command()(with_options(function))
    values = {**vars(options), **given}
    words = []
    for parameter in typer.main.get_command(program).params:
        value, name = values.get(str(parameter.name)), max(parameter.opts, key=len)
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            words += [f"{name}={one}" for one in (value if isinstance(value, list) else [value])]
    return words
