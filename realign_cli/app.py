"""The `realign` program: its commands, and how errors become one line and an exit code."""

from __future__ import annotations

import functools
import inspect
import io
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from realign_cli import __version__
from realign_cli.commands import (
    bench,
    caption_reward,
    compare,
    convert,
    demo,
    doctor,
    download,
    eval,
    export,
    generate,
    import_,
    prompts,
    refine,
    report,
    rewrite,
    run,
    score,
    segment,
    select,
    status,
    study,
    tag,
    train,
)
from realign_cli.commands.options import with_options
from realign_cli.errors import NoInput, RealignError
from realign_cli.safe_path import shun_working_directory

log = logging.getLogger(__name__)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"realign {__version__}")
        raise typer.Exit


def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Make text-to-image diffusion models do what the prompt says.

    Start with: [bold]realign demo[/bold]

    The paper's method, each command where the one before it left its work:

    realign train --data coco

    realign generate --prompts prompts.txt --model runs/coarse --out coarse/

    realign refine --in coarse/ --out final/

    realign eval --metrics fid,clip,negclip,blip

    Stages read and write records (JSON lines and PNGs), and chain through pipes:

    realign tag --in coarse/ | realign score | realign segment | realign refine --out final/
    """


def _handle_errors(function: Callable[..., None], name: str) -> Callable[..., None]:
    """One line and an exit code for what a user can cause; a traceback only for our own mistakes."""

    @functools.wraps(function)
    def command(**options: object) -> None:
        try:
            with _interruptible():
                function(**options)
        except RealignError as error:
            _log_traceback(error)
            _say(f"realign {name}: {error}")
            if isinstance(error, NoInput):
                _say(f"Usage: realign {name} [OPTIONS]; 'realign {name} --help' lists them")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            remedy = "what is finished is kept; continue with" if options.get("out") else "start again with"
            _say(f"realign {name}: interrupted; {remedy}: {shlex.join(['realign', *sys.argv[1:]])}")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader has what it wanted
            _close_stdout()
            raise typer.Exit(141) from None
        except OSError as error:  # a full disk, a folder that may not be read
            _log_traceback(error)
            _say(f"realign {name}: {error}")
            _close_stdout()
            raise typer.Exit(1) from None

    return command


def _open_streams() -> None:
    """Open closed standard streams on the null device, so that no file of the user's takes their place.

    Records are UTF-8, whatever the locale says of the text that people type.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their numbers
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # open as long as the process lives
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM, which Slurm sends before it requeues a job, interrupts as Ctrl-C does; a second signal ends at once."""

    def stop(*_: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as for jobs in the background of a script
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is stop:
                signal.signal(number, handler)


def _reflow(function: Callable[..., None]) -> str:
    """The docstring with each paragraph on one line; Typer would break lines on the screen where they end here."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (inspect.getdoc(function) or "").split("\n\n"))


def _without_subcommand(function: Callable[..., None]) -> Callable[..., None]:
    """A command that steps back where one of its subcommands is called."""

    def command(context: typer.Context, **options: object) -> None:
        if context.invoked_subcommand is None:
            function(**options)

    signature = inspect.signature(function)
    own = inspect.signature(command).parameters["context"].replace(annotation=typer.Context)
    command.__doc__ = function.__doc__
    command.__signature__ = signature.replace(parameters=[own, *signature.parameters.values()])  # type: ignore[attr-defined]
    command.__annotations__ = {"context": typer.Context, **function.__annotations__}
    return command


def _close_stdout() -> None:
    """Point it elsewhere, so that Python's flush at exit stays silent."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _log_traceback(error: Exception) -> None:
    """Log where an error was raised, for --verbose. What caused it is left out: its message was not made for users."""
    error.__cause__, error.__suppress_context__ = None, True
    log.debug("raised here:", exc_info=error)


def _say(line: str) -> None:
    from realign_cli.console import console, plain

    console.print(plain(line), style="red", soft_wrap=True)


# Panels and commands in the order of use.
_PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "The method, in order": {
        "train": train.train,
        "rewrite": rewrite.rewrite,
        "generate": generate.generate,
        "caption-reward": caption_reward.caption_reward,
        "select": select.select,
        "tag": tag.tag,
        "score": score.score,
        "segment": segment.segment,
        "refine": refine.refine,
    },
    "Judging it": {
        "eval": eval.eval_,
        "compare": compare.compare,
        "bench": bench.bench,
        "report": report.report,
        "study": study.study,
    },
    "Whole runs": {"demo": demo.demo, "run": run.run, "status": status.status},
    "Data in and out": {"prompts": prompts.prompts, "import": import_.import_, "export": export.export},
    "This computer": {"doctor": doctor.doctor, "download": download.download, "convert": convert.convert},
}
_SUBCOMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "eval": {"stats": eval.stats},
    "study": {"make": study.make, "serve": study.serve, "results": study.results},
}


class _Program(TyperGroup):
    """Lists commands in the order of use; what is printed, help pages too, may find a closed stream or a full disk."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for commands in _PANELS.values() for name in commands]  # Typer puts those with subcommands last

    def main(self, *arguments: Any, **options: Any) -> Any:
        shun_working_directory()
        _open_streams()
        try:
            try:
                return super().main(*arguments, **options)
            finally:
                sys.stdout.flush()  # else Python does it at exit, where nobody can catch what goes wrong
        except BrokenPipeError:  # the reader has what it wanted
            _close_stdout()
            sys.exit(141)
        except OSError as error:
            _say(f"realign: cannot write to the standard output: {error.strerror}")
            _close_stdout()
            sys.exit(1)


app = typer.Typer(
    name="realign",
    cls=_Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(main)


def _add(to: typer.Typer, name: str, function: Callable[..., None], prefix: str = "", **more: Any) -> None:
    to.command(name, help=_reflow(function), **more)(_handle_errors(with_options(function), f"{prefix}{name}"))


for _panel, _commands in _PANELS.items():
    for _name, _function in _commands.items():
        if _name not in _SUBCOMMANDS:
            _add(app, _name, _function, rich_help_panel=_panel)
            continue
        _group = typer.Typer()
        if inspect.signature(_function).parameters:
            _group.callback(invoke_without_command=True, help=_reflow(_function))(
                _without_subcommand(_handle_errors(with_options(_function), _name))
            )
        else:  # it does nothing but hold its subcommands
            _group.callback(no_args_is_help=True, help=_reflow(_function))(_function)
        for _inner, _of_it in _SUBCOMMANDS[_name].items():
            _add(_group, _inner, _of_it, prefix=f"{_name} ")
        app.add_typer(_group, name=_name, rich_help_panel=_panel)
