"""What `realign eval` and `realign eval stats` share: a set of images, seen once, becomes measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realign_cli import presets
from realign_cli.errors import RealignError, RecordError, UsageError
from realign_cli.plumbing import source as sources
from realign_cli.plumbing import stats
from realign_cli.plumbing.cache import Cache, RowFile, cache_folder
from realign_cli.plumbing.console import Verbosity, progress
from realign_cli.plumbing.views import Viewer
from realign_cli.registry import Models
from realign_cli.stages.distance import Reference, of_statistics, reference
from realign_cli.stages.eval import FID, Evaluate, Measured, Sight

if TYPE_CHECKING:
    from realign_cli.options import Common
    from realign_cli.plumbing.source import Entry
    from realign_cli.plumbing.views import View

METRICS = (FID, "clip", "negclip", "blip", "oracle")


@dataclass
class Measurement:
    """What was measured of the images of `source`; `entries` and `failures` are by record id, in order."""

    source: str
    measured: Measured = field(default_factory=Measured)
    features: Any = None  # (n, D), a memory map
    entries: dict[str, Entry] = field(default_factory=dict)
    failures: dict[str, tuple[Entry, RecordError]] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)  # images of the folder that no record names

    def complaints(self) -> list[str]:
        """One line for each record that could not be measured, and one for images that no record names."""
        lines = [f"{entry.place}: {error}" for entry, error in self.failures.values()]
        if self.unlisted:
            lines.append(f"{self.source}: {len(self.unlisted)} images have no record, such as {self.unlisted[0]}")
        return lines


class Session:
    """Models, memory, decoding processes and the progress bar of one command, from `with` to its end."""

    def __init__(
        self,
        options: Common,
        cache: Path | None,
        batch_size: int | None,
        folders: Sequence[str | Path | None],
        backend: str | None = None,
    ) -> None:
        Verbosity(options.quiet, options.verbose).apply()
        self.preset = presets.load(options.preset, options.overrides, backend)
        self.models = Models(self.preset, options.device)
        self._quiet = options.quiet
        self._batch_size = batch_size or self.preset.batch_size
        self._cache = cache or cache_folder()
        self._folders = [str(folder) for folder in folders if folder]

    def __enter__(self) -> Session:
        counts = [sources.count_any(folder) for folder in self._folders]
        total = None if None in counts else sum(filter(None, counts))
        with ExitStack() as stack:
            self._memory = Cache(self._cache)
            stack.callback(self._memory.close)
            self._viewer = Viewer()
            stack.callback(self._viewer.close)
            self._advance = stack.enter_context(progress("eval", total, quiet=self._quiet))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def evaluate(self, metrics: Sequence[str]) -> Evaluate:
        return Evaluate(self.models, metrics, self._memory, self._batch_size)

    def settings(self, evaluate: Evaluate) -> dict[str, Any]:
        return self.models.describe(evaluate.metrics)

    def measure(self, source: str, evaluate: Evaluate) -> Measurement:
        """Measure every image of `source`; what cannot be measured is in the `failures`.

        Raises:
            RealignError: nothing could be measured.
        """
        result = Measurement(source)
        rows = RowFile(self._cache)
        result.measured = evaluate.measure(self._sights(result, evaluate), rows)
        result.features = rows.matrix()
        if not result.entries:
            entry, error = next(iter(result.failures.values()))
            raise RealignError(
                f"{source}: nothing can be measured; the first of {len(result.failures)}: {entry.place}: {error}"
            )
        if source != sources.STDIN and Path(source).is_dir():
            entries = [*result.entries.values(), *(entry for entry, _ in result.failures.values())]
            named = {entry.record.file_name for entry in entries}
            result.unlisted = [path.name for path in sources.image_files(Path(source)) if path.name not in named]
        return result

    def _sights(self, result: Measurement, evaluate: Evaluate) -> Iterator[Sight]:
        for view in self._viewer.views(sources.read_any(result.source), evaluate.knows):
            record = view.entry.record
            error = view.error or _without_prompt(view, evaluate)
            self._advance(1)
            if error:
                result.failures[record.id] = view.entry, error
            else:
                result.entries[record.id] = view.entry
                yield Sight(record, view.digest, view.image)


def chosen(metrics: str | None, preset: presets.Preset, reference: object) -> list[str]:
    """The metrics that a list names, or all of the preset, `fid` only with a reference.

    Raises:
        UsageError: an unknown name, or `fid` without a reference.
    """
    known = [name for name in METRICS if name in preset.sections]
    if metrics is None:
        return [name for name in known if name != FID or reference]
    names = list(dict.fromkeys(name.strip() for name in metrics.split(",") if name.strip()))
    for name in names:
        if name not in known:
            raise UsageError(f"--metrics {name}: no such metric in this preset; there are {', '.join(known)}")
    if not names:
        raise UsageError(f"--metrics: name some of {', '.join(known)}")
    if FID in names and not reference:
        raise UsageError("--metrics fid compares with real images: give --reference DIR")
    return names


def _without_prompt(view: View, evaluate: Evaluate) -> RecordError | None:
    if not evaluate.judges or view.entry.record.text.strip():
        return None
    return RecordError("no_prompt", "no prompt to judge by; 'realign import' joins images and prompts")


def reference_of(session: Session, path: Path) -> Reference:
    """The reference that `path` holds: statistics, records or images.

    Raises:
        UsageError: statistics of other features.
    """
    if path.suffix != stats.SUFFIX:
        return reference(session.measure(str(path), session.evaluate([FID])).features)
    known = stats.read_stats(path)
    name = session.models.features.name
    if known.features not in (None, name):
        raise UsageError(f"{path}: statistics of '{known.features}', but the images here get '{name}'")
    return of_statistics(known.mean, known.covariance, known.n)
