"""What `realign eval` and `realign eval stats` share: a set of images, seen once, becomes measurements."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from realign_cli.console import Advance, progress
from realign_cli.data import records as sources
from realign_cli.data.images import image_files
from realign_cli.errors import RealignError, RecordError, UsageError
from realign_cli.evaluation import fid_stats
from realign_cli.evaluation.answers import Cache
from realign_cli.evaluation.decoding import ImageDecoder
from realign_cli.evaluation.distance import Reference, of_statistics, reference
from realign_cli.evaluation.evaluate import FID, EvalInput, Evaluate, ImageScores
from realign_cli.evaluation.feature_rows import RowFile
from realign_cli.files.cache_folder import cache_folder
from realign_cli.registry import is_metric

if TYPE_CHECKING:
    from realign_cli.data.records import Entry
    from realign_cli.evaluation.decoding import DecodedImage
    from realign_cli.presets import Preset
    from realign_cli.registry import Models


class Against(NamedTuple):
    """The reference of a distance: what it is called, and the statistics or images that it lies in."""

    name: str
    path: Path


@dataclass
class SetMeasurement:
    """What was measured of the images of `source`; `entries` and `failures` are by record id, in order.

    `digests` are the SHA-256 of the image files measured.
    """

    source: str
    measured: ImageScores = field(default_factory=ImageScores)
    features: Any = None  # (n, D), a memory map
    entries: dict[str, Entry] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    failures: dict[str, tuple[Entry, RecordError]] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)  # images of the folder that no record names

    def warnings(self) -> list[str]:
        """One line for each record that could not be measured, and one for images that no record names."""
        lines = [f"{entry.place}: {error}" for entry, error in self.failures.values()]
        if self.unlisted:
            lines.append(f"{self.source}: {len(self.unlisted)} images have no record, such as {self.unlisted[0]}")
        return lines

    @property
    def sha256(self) -> str:
        """Of the set of images measured, whatever their order."""
        return hashlib.sha256("".join(sorted(self.digests)).encode()).hexdigest()


@dataclass(frozen=True)
class KnownReference:
    """The other side of a distance: its name and SHA-256, and how it was measured, unless it is statistics."""

    name: str
    sha256: str
    reference: Reference
    measurement: SetMeasurement | None = None


class Session:
    """Models, remembered answers, decoding processes and the progress bar of one command."""

    def __init__(
        self, models: Models, cache: Cache, decoder: ImageDecoder, batch_size: int | None, advance: Advance
    ) -> None:
        self.models = models
        self._cache = cache
        self._decoder = decoder
        self._batch_size = batch_size or models.preset.batch_size
        self._advance = advance

    def evaluate(self, metrics: Sequence[str]) -> Evaluate:
        return Evaluate(self.models, metrics, self._cache, self._batch_size)

    def settings(self, evaluate: Evaluate) -> dict[str, Any]:
        return self.models.describe(evaluate.metrics)

    def measure(self, source: str, evaluate: Evaluate, entries: Iterable[Entry] | None = None) -> SetMeasurement:
        """Measure every image of `source`, or of its `entries` only; what cannot be measured is in the `failures`.

        Raises:
            RealignError: nothing could be measured.
        """
        result = SetMeasurement(source)
        rows = RowFile(self._cache.folder)
        given = sources.read_any(source) if entries is None else entries
        result.measured = evaluate.measure(self._inputs(result, given, evaluate), rows)
        result.features = rows.matrix()
        if not result.entries:
            entry, error = next(iter(result.failures.values()))
            raise RealignError(
                f"{source}: nothing can be measured; the first of {len(result.failures)}: {entry.place}: {error}"
            )
        if entries is None and source != sources.STDIN and Path(source).is_dir():
            entries = [*result.entries.values(), *(entry for entry, _ in result.failures.values())]
            named = {entry.record.file_name for entry in entries}
            result.unlisted = [path.name for path in image_files(Path(source)) if path.name not in named]
        return result

    def _inputs(self, result: SetMeasurement, entries: Iterable[Entry], evaluate: Evaluate) -> Iterator[EvalInput]:
        for view in self._decoder.views(entries, evaluate.is_cached):
            record = view.entry.record
            error = view.error or _without_prompt(view, evaluate)
            self._advance(1)
            if error:
                result.failures[record.id] = view.entry, error
            else:
                result.entries[record.id] = view.entry
                result.digests.append(view.digest)
                yield EvalInput(record, view.digest, view.image)


@contextmanager
def session(
    models: Models, cache: Path | None, batch_size: int | None, images: int | None, *, quiet: bool
) -> Iterator[Session]:
    """A session over that many images (None: nobody knows how many); answers are remembered in the folder `cache`."""
    answers = Cache(cache or cache_folder())
    decoder = ImageDecoder()
    try:
        with progress("eval", images, quiet=quiet) as advance:
            yield Session(models, answers, decoder, batch_size, advance)
    finally:
        decoder.close()
        answers.close()


def count(places: Iterable[str | Path | None]) -> int | None:
    """How many images there are in all, if that can be known before reading them; statistics hold none."""
    counts = [sources.count_any(str(place)) for place in places if place and not _is_statistics(place)]
    return None if None in counts else sum(filter(None, counts))


def chosen(metrics: str | None, preset: Preset, reference: object) -> list[str]:
    """The metrics that a list names, or all of the preset, `fid` only if a reference is given.

    A name is a section of the preset or "module:Class" of the user's own.

    Raises:
        UsageError: an unknown name.
    """
    if metrics is None:
        return [name for name in _known(preset) if name != FID or reference]
    names = list(dict.fromkeys(name.strip() for name in metrics.split(",") if name.strip()))
    for name in names:
        if ":" not in name and not _is_metric(preset, name):
            there = ", ".join(_known(preset))
            raise UsageError(f"--metrics {name}: no such metric in this preset; there are {there}, or module:Class")
    if not names:
        raise UsageError(f"--metrics: name some of {', '.join(_known(preset))}, or module:Class")
    return names


def _known(preset: Preset) -> list[str]:
    """The metrics of a preset, `fid` first."""
    names = sorted(preset.sections, key=lambda name: name != FID)
    return [name for name in names if _is_metric(preset, name)]


def _is_metric(preset: Preset, name: str) -> bool:
    return (name in preset.sections and name == FID) or is_metric(preset, name)


def _without_prompt(view: DecodedImage, evaluate: Evaluate) -> RecordError | None:
    if not evaluate.image_text_metrics or view.entry.record.text.strip():
        return None
    return RecordError("no_prompt", "no prompt to judge by; 'realign import' joins images and prompts")


def reference_of(session: Session, against: Against) -> KnownReference:
    """The reference as it is read from statistics, records or images.

    Raises:
        UsageError: statistics of other features.
    """
    path = against.path
    if not _is_statistics(path):
        images = session.measure(str(path), session.evaluate([FID]))
        return KnownReference(against.name, images.sha256, reference(images.features), images)
    known = fid_stats.read_stats(path)
    name = session.models.features.name
    if known.features not in (None, name):
        raise UsageError(f"{path}: statistics of '{known.features}', but the images here get '{name}'")
    return KnownReference(against.name, known.sha256, of_statistics(known.mean, known.covariance, known.n))


def _is_statistics(place: str | Path) -> bool:
    return Path(place).suffix == fid_stats.SUFFIX
