"""Images and prompts -> what metrics say of them and the features of a distance, asking no model twice."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from realign_cli.errors import RealignError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

    from realign_cli.records import Record
    from realign_cli.roles import FeatureExtractor, ImageTextMetric, Models

FID = "fid"
PREFERS_OWN = "prefers_own"
log = logging.getLogger(__name__)
Scores = dict[str, dict[str, float | None]]  # record id -> column -> value


class AnswerCache(Protocol):
    """What models answered in earlier runs, by the hash of what they were asked."""

    def get(self, key: str) -> bytes | None: ...
    def put(self, answers: Mapping[str, bytes]) -> None: ...


class Rows(Protocol):
    """A matrix of float32 that is filled row by row."""

    def put(self, index: int, row: bytes) -> None: ...


@dataclass(frozen=True)
class EvalInput:
    """A record, the hash of its image, and the image unless `Evaluate.is_cached`."""

    record: Record
    digest: str
    image: Image | None = None


@dataclass
class ImageScores:
    """What was measured of one set of images: values of each, and how many prompts each metric read only in part."""

    scores: Scores = field(default_factory=dict)
    truncated: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Query:
    """To a metric: does this image show `text`? To the feature extractor (`text` is None): what are its features?"""

    metric: str
    key: str | None  # None: not to be remembered
    index: int
    record: Record
    image: Image | None
    text: str | None = None


class Evaluate:
    """Asks the metrics named, and for `fid` the feature extractor, about every image.

    Each model is asked in full batches, for what `cache` does not hold; what it answers is remembered by the hashes of
    image, prompt, weights and preprocessing. Only the images that wait for a batch are held.
    """

    def __init__(self, models: Models, metrics: Sequence[str], cache: AnswerCache, batch_size: int) -> None:
        self._models = models
        self.metrics = metrics
        self._cache = cache
        self._batch_size = batch_size
        self._owned: dict[str, frozenset[str]] = {}  # the columns of each metric

    @cached_property
    def image_text_metrics(self) -> dict[str, ImageTextMetric]:
        metrics = {name: self._models.metric(name) for name in self.metrics if name != FID}
        for name, metric in metrics.items():
            with _named(name):
                known = metric.fingerprint
            if not isinstance(known, str | None):
                raise RealignError(f"metric {name}: its fingerprint is a {type(known).__name__}, not a text or None")
        return metrics

    @cached_property
    def extractor(self) -> FeatureExtractor | None:
        return self._models.features if FID in self.metrics else None

    def is_cached(self, record: Record, digest: str) -> bool:
        """Whether all is remembered about an image, so that it need not be decoded."""
        return all(q.key and self._cache.get(q.key) is not None for q in self._queries(EvalInput(record, digest), 0))

    def measure(self, inputs: Iterable[EvalInput], rows: Rows | None = None) -> ImageScores:
        """Measure every image; with `fid` its features become row 0, 1, ... of `rows`."""
        said: dict[str, dict[tuple[str, str], dict[str, float | None]]] = {}  # id -> (metric, prompt) -> columns
        measured = ImageScores(truncated=dict.fromkeys(self.image_text_metrics, 0))
        records: dict[str, Record] = {}
        waiting: dict[str, list[_Query]] = {name: [] for name in self.metrics}

        def take(query: _Query, answer: bytes) -> None:
            if query.text is None:
                assert rows is not None
                rows.put(query.index, answer)
                return
            columns, cut = json.loads(answer)
            self._claim(query.metric, columns)
            record = query.record
            said[record.id][query.metric, query.text] = columns
            measured.truncated[query.metric] += bool(cut and query.text == record.text)

        def ask(queries: list[_Query]) -> None:
            for query, answer in zip(queries, self._answers(queries), strict=True):
                take(query, answer)
            queries.clear()

        for index, given in enumerate(inputs):
            record = given.record
            said[record.id], records[record.id] = {}, record
            for query in self._queries(given, index):
                known = self._cache.get(query.key) if query.key else None
                if known is not None:
                    take(query, known)
                    continue
                queue = waiting[query.metric]
                queue.append(query)
                if len(queue) == self._batch_size:
                    ask(queue)
        for queue in waiting.values():
            if queue:
                ask(queue)
        measured.scores = {record_id: self._columns(records[record_id], answers) for record_id, answers in said.items()}
        return measured

    def _queries(self, given: EvalInput, index: int) -> Iterator[_Query]:
        record = given.record
        texts = [record.text, record.pair.text] if record.pair else [record.text]
        for name, metric in self.image_text_metrics.items():
            for text in texts:
                key = _key(name, metric.fingerprint, given.digest, text)
                yield _Query(name, key, index, record, given.image, text)
        if self.extractor:
            yield _Query(FID, _key(FID, self.extractor.fingerprint, given.digest), index, record, given.image)

    def _answers(self, queries: Sequence[_Query]) -> list[bytes]:
        """Ask one model about a batch, and remember."""
        images = [q.image for q in queries if q.image]
        texts = [q.text for q in queries if q.text is not None]
        if self.extractor and queries[0].metric == FID:
            answers = [row.tobytes() for row in self.extractor.features(images).astype("<f4")]
        else:
            metric = queries[0].metric
            answers = [
                json.dumps(one).encode() for one in _measured(metric, self.image_text_metrics[metric], images, texts)
            ]
        self._cache.put({q.key: answer for q, answer in zip(queries, answers, strict=True) if q.key})
        return answers

    def _claim(self, metric: str, columns: Collection[str]) -> None:
        """Hold a metric to the columns of its first answer, which are its own.

        Raises:
            RealignError: it has others now, or another metric has one of them.
        """
        if metric not in self._owned:
            for other, owned in self._owned.items():
                if both := sorted(owned.intersection(columns)):
                    raise RealignError(
                        f"metrics {other} and {metric} both have a column '{both[0]}'; measure by one of them at a "
                        "time, or rename it"
                    )
            self._owned[metric] = frozenset(columns)
        if self._owned[metric] != set(columns):
            now, first = ", ".join(sorted(columns)) or "none", ", ".join(sorted(self._owned[metric])) or "none"
            raise RealignError(
                f"metric {metric}: its columns were {first} and are {now}; they stay the same as long as its "
                "fingerprint does"
            )

    def _columns(
        self, record: Record, answers: Mapping[tuple[str, str], Mapping[str, float | None]]
    ) -> dict[str, float | None]:
        """All columns of one image: for its prompt, and whether each is higher than for the other prompt of a pair."""
        columns: dict[str, float | None] = {}
        for name in self.image_text_metrics:
            own = answers[name, record.text]
            columns |= own
            if record.pair:
                swapped = answers[name, record.pair.text]
                columns |= {f"{c}_{PREFERS_OWN}": _higher(value, swapped[c]) for c, value in own.items()}
        return columns


def _measured(
    name: str, metric: ImageTextMetric, images: Sequence[Image], prompts: Sequence[str]
) -> list[tuple[dict[str, float | None], bool]]:
    """What a metric, which anybody may have written, says of each image: its columns, and whether it read the prompt
    only in part.

    Raises:
        RealignError: it raises, or does not answer as `roles.ImageTextMetric` says.
    """
    with _named(name):
        columns, truncated = metric.measure(images, prompts), metric.truncated(prompts)
        counts = {f"column '{column}'": len(values) for column, values in columns.items()}
        counts["truncated"] = len(truncated)
        found = {column: [None if v is None else float(v) for v in values] for column, values in columns.items()}
        partly = [bool(one) for one in truncated]
    for place, count in counts.items():
        if count != len(images):
            raise RealignError(f"metric {name}: {count} values in {place} for {len(images)} images")
    for column, values in found.items():
        for value, prompt in zip(values, prompts, strict=True):
            if value is not None and not math.isfinite(value):
                raise RealignError(
                    f"metric {name}: {value} in column '{column}' for the prompt {prompt!r}; a value is a finite "
                    "number, or None where the column does not apply"
                )
    return [({column: values[i] for column, values in found.items()}, partly[i]) for i in range(len(images))]


@contextmanager
def _named(metric: str) -> Iterator[None]:
    """Whatever a metric raises becomes one line that names it."""
    try:
        yield
    except RealignError:
        raise
    except Exception as error:  # a class of the user's own may raise anything
        log.debug("metric %s", metric, exc_info=True)
        raise RealignError(
            f"metric {metric}: {type(error).__name__}: {first_line(error)}; -v shows where it failed"
        ) from None


def _higher(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else float(value > other)


def _key(metric: str, fingerprint: str | None, digest: str, text: str = "") -> str | None:
    if fingerprint is None:
        return None
    return hashlib.sha256("\0".join([metric, fingerprint, digest, text]).encode()).hexdigest()
