"""Images and prompts -> what judges say of them and the features of a distance, asking no model twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from realign_cli.records import Record
from realign_cli.roles import FeatureExtractor, Judge, Models

if TYPE_CHECKING:
    from PIL.Image import Image

FID = "fid"
PREFERS_OWN = "prefers_own"
Scores = dict[str, dict[str, float | None]]  # record id -> column -> value


class Memory(Protocol):
    """Answers of earlier runs."""

    def get(self, key: str) -> bytes | None: ...
    def put(self, answers: Mapping[str, bytes]) -> None: ...


class Rows(Protocol):
    """A matrix of float32 that is filled row by row."""

    def put(self, index: int, row: bytes) -> None: ...


@dataclass(frozen=True)
class Sight:
    """A record, the hash of its image, and the image unless `Evaluate.knows` all about it."""

    record: Record
    digest: str
    image: Image | None = None


@dataclass
class Measured:
    """What was measured of one set of images: values of each, and how many prompts each judge read only in part."""

    scores: Scores = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Question:
    """To a judge: does this image show `text`? To the feature extractor (`text` is None): what are its features?"""

    metric: str
    key: str | None  # None: not to be remembered
    index: int
    record: Record
    image: Image | None
    text: str | None = None


class Evaluate:
    """Asks the judges named, and for `fid` the feature extractor, about every image.

    Each model is asked in full batches, for what `memory` does not hold; what it answers is remembered by the hashes of
    image, prompt, weights and preprocessing. Only the images that wait for a batch are held.
    """

    def __init__(self, models: Models, metrics: Sequence[str], memory: Memory, batch_size: int) -> None:
        self._models = models
        self.metrics = metrics
        self._memory = memory
        self._batch_size = batch_size

    @cached_property
    def judges(self) -> dict[str, Judge]:
        return {name: self._models.judge(name) for name in self.metrics if name != FID}

    @cached_property
    def extractor(self) -> FeatureExtractor | None:
        return self._models.features if FID in self.metrics else None

    def knows(self, record: Record, digest: str) -> bool:
        """Whether all is remembered about an image, so that it need not be decoded."""
        return all(q.key and self._memory.get(q.key) is not None for q in self._questions(Sight(record, digest), 0))

    def measure(self, sights: Iterable[Sight], rows: Rows | None = None) -> Measured:
        """Measure every image; with `fid` its features become row 0, 1, ... of `rows`."""
        said: dict[str, dict[tuple[str, str], dict[str, float | None]]] = {}  # id -> (metric, prompt) -> columns
        measured = Measured(cut=dict.fromkeys(self.judges, 0))
        records: dict[str, Record] = {}
        waiting: dict[str, list[_Question]] = {name: [] for name in self.metrics}

        def take(question: _Question, answer: bytes) -> None:
            if question.text is None:
                assert rows is not None
                rows.put(question.index, answer)
                return
            columns, cut = json.loads(answer)
            record = question.record
            said[record.id][question.metric, question.text] = columns
            measured.cut[question.metric] += bool(cut and question.text == record.text)

        def ask(questions: list[_Question]) -> None:
            for question, answer in zip(questions, self._answers(questions), strict=True):
                take(question, answer)
            questions.clear()

        for index, sight in enumerate(sights):
            record = sight.record
            said[record.id], records[record.id] = {}, record
            for question in self._questions(sight, index):
                known = self._memory.get(question.key) if question.key else None
                if known is not None:
                    take(question, known)
                    continue
                queue = waiting[question.metric]
                queue.append(question)
                if len(queue) == self._batch_size:
                    ask(queue)
        for queue in waiting.values():
            if queue:
                ask(queue)
        measured.scores = {record_id: self._columns(records[record_id], answers) for record_id, answers in said.items()}
        return measured

    def _questions(self, sight: Sight, index: int) -> Iterator[_Question]:
        record = sight.record
        texts = [record.text, record.pair.text] if record.pair else [record.text]
        for name, judge in self.judges.items():
            for text in texts:
                key = _key(name, judge.fingerprint, sight.digest, text)
                yield _Question(name, key, index, record, sight.image, text)
        if self.extractor:
            yield _Question(FID, _key(FID, self.extractor.fingerprint, sight.digest), index, record, sight.image)

    def _answers(self, questions: Sequence[_Question]) -> list[bytes]:
        """Ask one model about a batch, and remember."""
        images = [q.image for q in questions if q.image]
        texts = [q.text for q in questions if q.text is not None]
        if self.extractor and questions[0].metric == FID:
            answers = [row.tobytes() for row in self.extractor.features(images).astype("<f4")]
        else:
            judge = self.judges[questions[0].metric]
            columns, cut = judge.judge(images, texts), judge.cut(texts)
            answers = [
                json.dumps([{name: values[i] for name, values in columns.items()}, cut[i]]).encode()
                for i in range(len(texts))
            ]
        self._memory.put({q.key: answer for q, answer in zip(questions, answers, strict=True) if q.key})
        return answers

    def _columns(
        self, record: Record, answers: Mapping[tuple[str, str], Mapping[str, float | None]]
    ) -> dict[str, float | None]:
        """All columns of one image: for its prompt, and whether each is higher than for the other prompt of a pair."""
        columns: dict[str, float | None] = {}
        for name in self.judges:
            own = answers[name, record.text]
            columns |= own
            if record.pair:
                swapped = answers[name, record.pair.text]
                columns |= {f"{c}_{PREFERS_OWN}": _higher(value, swapped[c]) for c, value in own.items()}
        return columns


def _higher(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else float(value > other)


def _key(metric: str, fingerprint: str | None, digest: str, text: str = "") -> str | None:
    if fingerprint is None:
        return None
    return hashlib.sha256("\0".join([metric, fingerprint, digest, text]).encode()).hexdigest()
