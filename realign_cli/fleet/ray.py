"""Work on a Ray cluster: the models of a preset in actors, one per role, and whole commands as tasks.

Both start and try again where they die.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event
from typing import TYPE_CHECKING, Any

from realign_cli.errors import RealignError, UsageError, first_line
from realign_cli.fleet.steps import Ended, execute_here
from realign_cli.registry import Models
from realign_cli.roles import ROLES

if TYPE_CHECKING:
    from realign_cli.fleet.supervisor import Work
    from realign_cli.presets import Preset

_PULSE = 0.5  # seconds


@contextmanager
def workers(
    makes: Sequence[Callable[[Models], int]], preset: Preset, device: str, address: str | None, models_on_gpu: int
) -> Iterator[list[Work]]:
    """The work of calling each of `makes` with models on a Ray cluster, whose GPUs all of them share equally.

    `models_on_gpu` is how many models each of them uses there.

    Raises:
        UsageError: as `_cluster`.
        RealignError: as `_cluster`.
    """
    with _cluster(address) as gpus:
        share = min(1.0, int(1000 * gpus / (len(makes) * models_on_gpu)) / 1000)
        yield [_work(make, preset, device, share) for make in makes]


@contextmanager
def commands(count: int, address: str | None) -> Iterator[Callable[[Sequence[str], Event], Ended]]:
    """What runs `realign WORDS` somewhere on a Ray cluster, whose GPUs `count` commands at once share equally.

    All nodes see the folder in which this process runs, and what it and the command name. Once the event is set, a
    command is ended and waiting for it ends with KeyboardInterrupt.

    Raises:
        UsageError: as `_cluster`.
        RealignError: as `_cluster`.
    """
    with _cluster(address) as gpus:
        import ray

        share = min(1.0, int(1000 * gpus / count) / 1000)
        options = {"num_cpus": 0, "num_gpus": share, "max_retries": -1, "scheduling_strategy": "SPREAD"}
        task = ray.remote(_execute).options(**options)

        def execute(words: Sequence[str], stop: Event) -> Ended:
            answer = task.remote(list(words), os.getcwd())
            while not ray.wait([answer], timeout=_PULSE)[0]:
                if stop.is_set():
                    ray.cancel(answer)
                    raise KeyboardInterrupt
            ended: Ended = ray.get(answer)
            return ended

        yield execute


def _execute(words: Sequence[str], folder: str) -> Ended:
    os.chdir(folder)
    return execute_here(words, Event())


def _work(make: Callable[[Models], int], preset: Preset, device: str, share: float) -> Work:
    return lambda stop: make(RemoteModels(preset, device, share, stop))


@contextmanager
def _cluster(address: str | None) -> Iterator[float]:
    """Connect to the Ray cluster at `address`, or start one on this computer, and give the number of its GPUs.

    Raises:
        UsageError: Ray is not installed.
        RealignError: there is no cluster at `address`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray needs Ray: pip install 'realign[ray]'") from None
    own: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RealignError(f"--address {address}: no Ray cluster to be reached ({first_line(error)})") from None
    try:
        yield ray.cluster_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()


class RemoteModels(Models):
    """`Models` whose every model lives in an actor of its own, with `share` of a GPU.

    A stage calls a remote model as it calls one of its own process. Calls change nothing in an actor, so what an actor
    has lost by dying is asked again. Once `stop` is set, waiting for an answer ends with KeyboardInterrupt.
    """

    def __init__(self, preset: Preset, device: str, share: float, stop: Event) -> None:
        super().__init__(preset, device)
        self._share, self._stop = share, stop

    def load(self, name: str) -> _Remote:
        import ray

        share = self._share if ROLES[name].on_device else 0
        options = {"num_cpus": 0, "num_gpus": share, "max_restarts": -1, "max_task_retries": -1}
        kind = ray.remote(_Actor).options(scheduling_strategy="SPREAD", **options)
        return _Remote(kind.remote(self.preset, self._device, name, os.getcwd()), self._stop)


class _Actor:
    """Runs in a process of the cluster and loads its model with the first call, where errors have a caller."""

    def __init__(self, preset: Preset, device: str, role: str, folder: str) -> None:
        with suppress(OSError):  # for checkpoints by relative path, where the file system is shared
            os.chdir(folder)
        self._models, self._role = Models(preset, device), role

    def call(self, method: str, *arguments: Any) -> Any:
        result = getattr(getattr(self._models, self._role), method)(*arguments)
        return result.cpu() if hasattr(result, "cpu") else result  # the caller may have no GPU


class _Remote:
    """A model as a stage sees it."""

    def __init__(self, actor: Any, stop: Event) -> None:
        self._actor, self._stop = actor, stop

    def __getattr__(self, method: str) -> Callable[..., Any]:
        import ray

        def call(*arguments: Any) -> Any:
            answer = self._actor.call.remote(method, *arguments)
            while not ray.wait([answer], timeout=_PULSE)[0]:
                if self._stop.is_set():
                    raise KeyboardInterrupt
            try:
                return ray.get(answer)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None

        return call
