"""How `realign bench` makes the images of several methods from one set of prompts and one seed, and judges them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from realign_cli.fleet.steps import Spent, Step, Taken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from threading import Event

    from realign_cli.commands._methods import Method
    from realign_cli.data.shards import Shard
    from realign_cli.evaluation.evaluate import Scores
    from realign_cli.evaluation.ranking import Ranking, System
    from realign_cli.evaluation.session import Against, KnownReference, Session, SetMeasurement
    from realign_cli.fleet.steps import Ended
    from realign_cli.registry import Models

EVALS = "evals"


@dataclass
class Run:
    """A set of prompts with one seed: the folder of its steps, and how these went."""

    seed: int
    root: Path
    prompts: Path
    taken: Taken = field(default_factory=Taken)
    incomplete: bool = False  # some images could not be made or measured

    def seconds(self, method: Method) -> float | None:
        """What all steps of a method took; None where one did not tell."""
        taken = [self.taken.spent[step.out].seconds for step in method.steps]
        known = [one for one in taken if one is not None]
        return sum(known) if len(known) == len(taken) else None

    def memory(self, method: Method) -> int:
        """The most that a step of a method took, in bytes."""
        return max(self.taken.spent[step.out].memory for step in method.steps)


def make(
    runs: Sequence[Run],
    methods: Mapping[str, Method],
    shared: Sequence[str],
    execute: Callable[[Sequence[str], Event], Ended],
    *,
    workers: int,
    shard: Shard,
    quiet: bool,
) -> None:
    """Take the steps of the methods in every run that were not taken yet, or the shard of them, by so many workers.

    Methods that share steps go to the same worker. `shared` are options that every step is given.
    """
    from realign_cli.console import console, plain, progress
    from realign_cli.fleet.steps import independent, take
    from realign_cli.fleet.supervisor import run_concurrently

    def tell(run: Run, step: Step, spent: Spent | None) -> None:
        advance(1)
        if spent and not quiet:
            took = "continued" if spent.seconds is None else f"{spent.seconds:.1f} s"
            console.print(plain(f"{run.root.name} {step.out}: {took}"), soft_wrap=True)

    def work(stop: Event) -> int:
        for run, group in left:
            if stop.is_set():
                break
            command = partial(Step.command, root=run.root, prompts=run.prompts, seed=run.seed, shared=shared)
            taken = take(group, run.root, command, lambda words: execute(words, stop), partial(tell, run))
            run.taken.spent.update(taken.spent)
            run.taken.failed.update(taken.failed)
        return 0

    groups = independent({name: method.steps for name, method in methods.items()})
    parts = [(run, group) for group in groups for run in runs][shard.index - 1 :: shard.count]
    left = iter(parts)  # of which each worker takes the next
    steps = sum(len({step for chain in group.values() for step in chain}) for _, group in parts)
    with progress("bench", steps, quiet=quiet) as advance:
        run_concurrently([work] * workers, lambda: None)


def judge(
    sets: Mapping[str, Sequence[Run]],
    methods: Mapping[str, Method],
    models: Models,
    judges: Sequence[str],
    against: Against | None,
    cache: Path | None,
    *,
    quiet: bool,
) -> dict[str, list[Ranking]]:
    """The rankings of each set, of the methods that ended well with every seed; an eval of each folder is written.

    FID is to the images or statistics `against`, where the judges have it.
    """
    from realign_cli.evaluation.ranking import rankings
    from realign_cli.evaluation.session import count, reference_of, session

    ended = {label: _ended(methods, runs) for label, runs in sets.items()}
    folders = [run.root / one.images for label, runs in sets.items() for one in ended[label].values() for run in runs]
    with session(models, cache, None, count([*folders, against and against.path]), quiet=quiet) as opened:
        known = reference_of(opened, against) if against else None
        systems = {label: _systems(opened, judges, known, ended[label], runs) for label, runs in sets.items()}
    return {label: rankings(measured) for label, measured in systems.items() if measured}


def _ended(methods: Mapping[str, Method], runs: Sequence[Run]) -> dict[str, Method]:
    """The methods that failed in none of the runs."""
    return {name: one for name, one in methods.items() if not any(name in run.taken.failed for run in runs)}


def _systems(
    opened: Session,
    judges: Sequence[str],
    known: KnownReference | None,
    methods: Mapping[str, Method],
    runs: Sequence[Run],
) -> list[System]:
    """What each method got over all runs of a set, a prompt counting once. One that has no image has failed."""
    from realign_cli.console import console, plain
    from realign_cli.errors import RealignError
    from realign_cli.evaluation.compare import by_prompt
    from realign_cli.evaluation.ranking import System
    from realign_cli.evaluation.report import Report, cost_of, scores_by_prompt

    evaluate = opened.evaluate(judges)
    first: dict[int, SetMeasurement] = {}
    systems = []
    for name, method in methods.items():
        scores: Scores = {}
        prompts, passes, seconds, fids = dict[str, str](), list[float](), list[float](), list[float]()
        for run in runs:
            try:
                side = opened.measure(str(run.root / method.images), evaluate)
            except RealignError as error:
                run.taken.failed[name] = str(error)
                break
            for line in side.warnings():
                console.print(plain(line), soft_wrap=True)
            report = Report(evaluate, opened.settings(evaluate), side, first.get(run.seed), known)
            report.write(run.root / EVALS / name)
            first.setdefault(run.seed, side)
            run.incomplete = run.incomplete or bool(report.failed)
            found = scores_by_prompt(side)
            scores |= {f"{run.seed} {i}": values for i, values in found.items()}
            prompts |= {f"{run.seed} {i}": i for i in found}
            fids += [report.distances["in"].fid] if known else []
            passes += [cost["passes"]] if (cost := cost_of(side)) else []
            took = run.seconds(method)
            seconds += [] if took is None else [took / len(found)]
        if any(name in run.taken.failed for run in runs):
            continue
        systems.append(
            System(
                name,
                by_prompt(scores, prompts),
                _mean(fids, len(runs)),
                _mean(passes, len(runs)),
                _mean(seconds, len(runs)),
                max(run.memory(method) for run in runs),
                method.note,
            )
        )
    return systems


def _mean(values: Sequence[float], count: int) -> float | None:
    """The mean of `count` values, None where some are not known."""
    return sum(values) / count if len(values) == count else None
