from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from realign_cli.commands._bench import EVALS, Run, judge, make
from realign_cli.commands._methods import GIVEN, METHODS, chosen, with_models
from realign_cli.commands.compare import show
from realign_cli.commands.eval import Cache
from realign_cli.commands.options import WORKERS, AddressOption, EngineOption, ModelOptions, check_address
from realign_cli.commands.prompts import PromptSet, prompt_set
from realign_cli.commands.report import NAME as PAGE
from realign_cli.commands.report import write_report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from realign_cli.evaluation.ranking import Ranking
    from realign_cli.presets import Preset


def bench(
    options: ModelOptions,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything; the same command goes on in it.")],
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help=f"Some of {', '.join([*METHODS, *GIVEN])} and the names of --model, the one to compare with first. "
            "By default the preset's.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Sets of prompts: coco, abc6k, cc500, shapes, or files. By default the preset's."
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-n",
            min=1,
            help="Only the first N prompts of each set, but of files all. By default the preset's.",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Seeds of the noise, such as 42,43. By default the preset's."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=DIR", help="A model that realign train made, as a method of that name: refl=DIR. Repeatable."
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Metrics to judge by, as of eval. By default all of the preset's."),
    ] = None,
    cache: Cache = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of methods worked on at once.", rich_help_panel=WORKERS)
    ] = 1,
    engine: EngineOption = "local",
    address: AddressOption = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Make the images of the I-th of N parts of the methods, and judge none; workers share --out.",
            rich_help_panel=WORKERS,
        ),
    ] = None,
) -> None:
    """Make images of the same prompts by several methods, judge them, and rank the methods in one table.

    All methods start from the same noise, with the same sampler and weights. Each is some commands of this program, one
    after the other, in processes of their own: their seconds and their peak of main memory, loading included, stand in
    the table, the seconds per prompt. What several methods need, such as the masks of the plain images, is made once,
    and counted for each. Differences are to the first method, paired by prompt; over several seeds a prompt counts
    once, with its mean. A star marks a method that was tuned or chooses by what is near to a metric.

    In --out there is a folder SET-SEED for each set and seed, with a folder for each step, and report.html; table.md,
    table.tex, table.json and a figure of each set stand beside them. A method that fails is named and left out, and
    the exit code is then 1. The same command goes on where it was interrupted.

    Methods go to --workers, to a Ray cluster whose nodes all see --out and --model, or to jobs with a --shard each,
    after which the same command without --shard judges what they made. Methods that share steps stay together. Workers
    that share a computer or a GPU slow each other down, and their seconds say so.

    Examples:

    realign bench --preset tiny --out bench/

    realign bench --methods plain,syngen,best-of-4 --data cc500 --seeds 42,43 --out bench/

    realign bench --methods plain,refl --model refl=runs/refl --data prompts.txt --out bench/

    realign bench --out bench/ --shard 3/16
    """
    import sys
    from contextlib import nullcontext

    from realign_cli import presets
    from realign_cli.console import Verbosity, console, plain, write_json
    from realign_cli.data.shards import WHOLE, Shard
    from realign_cli.errors import UsageError
    from realign_cli.evaluation.evaluate import FID
    from realign_cli.evaluation.ranking_tables import as_dict
    from realign_cli.evaluation.reference import named_reference
    from realign_cli.fleet import ray
    from realign_cli.fleet.steps import execute_here
    from realign_cli.registry import Models
    from realign_cli.runs.lock import folder_lock

    if shard and (workers > 1 or engine == "ray"):
        raise UsageError("--shard makes this one worker of many: --workers and --engine do not go with it")
    check_address(address, engine)
    part = Shard.parse(shard) if shard else WHOLE
    Verbosity(options.quiet, options.verbose).apply()
    preset = presets.load(options.preset, options.overrides)
    models = Models(preset, options.device)
    default = models.benching
    known = with_models(_trained(model or [], preset), default.notes)
    wanted, left_out = chosen(_words(methods) or default.methods, known)
    judges = _judges(metrics, preset)
    against = named_reference(preset, options.preset_argument) if FID in judges else None
    numbers = _numbers(seeds) or default.seeds
    quiet = options.quiet or options.as_json
    for name in left_out if not quiet else ():
        line = f"{name}: left out; give --model {name}=DIR, the folder of a finished 'realign train'"
        console.print(plain(line), soft_wrap=True)
    with folder_lock(out, part):
        sets = {}
        for name in _words(data) or default.data:
            label, prompts = _prompts(name, count or default.count, out)
            if label in sets:
                raise UsageError(f"--data {name}: two sets are called {label}; rename the file")
            sets[label] = [Run(seed, out / f"{label}-{seed}", prompts) for seed in numbers]
        runs = [run for group in sets.values() for run in group]
        cluster = ray.commands(workers, address) if engine == "ray" else nullcontext(execute_here)
        with cluster as execute:  # before any model is loaded here, for a new process counts the memory of this one
            make(runs, wanted, _shared_words(options), execute, workers=workers, shard=part, quiet=quiet)
        tables = judge(sets, wanted, models, judges, against, cache, quiet=quiet) if part == WHOLE else {}
        if tables:
            _write(out, tables)
        for run in runs if tables else ():
            folders = [run.root / one.images for name, one in wanted.items() if name not in run.taken.failed]
            evals = [path for name in wanted if (path := run.root / EVALS / name).is_dir()]
            write_report([*folders, *evals], run.root / PAGE, quiet=quiet)
    failed = {f"{run.root.name} {name}": why for run in runs for name, why in run.taken.failed.items()}
    if options.as_json:
        found = {label: [as_dict(one) for one in rankings] for label, rankings in tables.items()}
        write_json({"command": "bench", "out": str(out), "rankings": found, "failed": failed})
    else:
        for label, rankings in tables.items():
            if len(tables) > 1:
                sys.stdout.write(f"{label}\n\n")
            show(rankings)
        if tables and not quiet:
            console.print(plain("\n".join(f"open {run.root / PAGE}" for run in runs)), soft_wrap=True)
        if shard and not quiet:
            console.print(f"shard {shard} is made; when all are, the same command without --shard judges them")
    for place, why in failed.items():
        console.print(plain(f"{place} failed: {why}"), style="red", soft_wrap=True)
    if failed:
        raise typer.Exit(1)
    if any(run.incomplete for run in runs):
        raise typer.Exit(3)


def _words(given: str | None) -> list[str]:
    return [word.strip() for word in (given or "").split(",") if word.strip()]


def _numbers(given: str | None) -> list[int]:
    from realign_cli.errors import UsageError

    try:
        return list(dict.fromkeys(int(word) for word in _words(given)))
    except ValueError:
        raise UsageError(f"--seeds {given}: whole numbers, such as 42,43") from None


def _trained(given: Sequence[str], preset: Preset) -> dict[str, Path]:
    """The folders of models by the names of their methods.

    Raises:
        UsageError: no NAME=DIR, a name that is taken, or no model in the folder.
    """
    from realign_cli import presets
    from realign_cli.errors import UsageError

    found = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not equals or not name.replace("-", "").replace("_", "").isalnum() or name in METHODS:
            raise UsageError(f"--model {one}: write NAME=DIR, such as refl=runs/refl, with a name that no method has")
        presets.with_model(preset, Path(folder))
        found[name] = Path(folder)
    return found


def _judges(metrics: str | None, preset: Preset) -> list[str]:
    from realign_cli.errors import UsageError
    from realign_cli.evaluation import session
    from realign_cli.evaluation.evaluate import FID

    names = session.chosen(metrics, preset, reference=True)
    if names == [FID]:
        raise UsageError("--metrics fid is of a whole set and ranks no prompts: name another metric too")
    return names


def _shared_words(options: ModelOptions) -> list[str]:
    """The options that every step is given."""
    settings = [f"--set={one}" for one in options.overrides]
    return [f"--preset={options.preset}", *settings, f"--device={options.device}", "-q"]


def _prompts(name: str, count: int, out: Path) -> tuple[str, Path]:
    """What a set is called, and the file in `out` that holds its prompts.

    Raises:
        UsageError: no such set or file, or `out` holds what was made of other prompts.
    """
    from realign_cli.data.prompts import read_prompt_file
    from realign_cli.errors import UsageError
    from realign_cli.files import atomic
    from realign_cli.records import dump_line

    known: dict[str, PromptSet] = {one: one for one in get_args(PromptSet)}
    if name in known:
        label, path = name, out / f"{name}.jsonl"
        text = "".join(dump_line(record) + "\n" for record in prompt_set(known[name])[: count or None])
    else:
        given = Path(name)
        if not given.is_file():
            raise UsageError(f"--data {name}: no such file, and the sets are {', '.join(known)}")
        read_prompt_file(given)
        label, path, text = given.stem, out / given.name, given.read_text(encoding="utf-8")
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UsageError(f"{path}: {out} was made of other prompts than these; give another --out")
    atomic.write_text(path, text)
    return label, path


def _write(out: Path, tables: Mapping[str, Sequence[Ranking]]) -> None:
    from realign_cli.evaluation import plots
    from realign_cli.evaluation.ranking_tables import as_dict, latex, markdown
    from realign_cli.files import atomic

    atomic.write_text(out / "table.md", "\n".join(f"## {label}\n\n{markdown(one)}" for label, one in tables.items()))
    atomic.write_text(out / "table.tex", "\n".join(f"% {label}\n{latex(one)}" for label, one in tables.items()))
    atomic.write_json(out / "table.json", {label: [as_dict(one) for one in found] for label, found in tables.items()})
    for label, found in tables.items():
        atomic.write_png(out / f"{label}.png", plots.standings(found))
