"""The one contract between stages: a record is one line of JSON about one image of one prompt.

Every stage adds its own key and leaves the others alone, but for `cost` and `failures`, to which each adds; keys that
nobody here knows pass through untouched. In a refined record `caption`, `tags` and `objects` describe the coarse image,
from which the refinement was planned.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from realign_cli.errors import UsageError

ID = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"
SCHEMA = 1  # raised when a key changes its meaning; a record that says nothing is of schema 1
Box = Annotated[tuple[int, int, int, int], Field(strict=False)]  # JSON has no tuples


def _allowed_likelihood(value: float) -> float:
    if value not in (0.0, 0.5, 2.0):
        raise ValueError("must be 2, 0.5 or 0")
    return value


Likelihood = Annotated[float, AfterValidator(_allowed_likelihood)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, strict=True)


class Caption(_Part):
    """What the captioner sees, and its caption reward (Eq. 4), in [-1, 1]."""

    text: str
    reward: float


class Tag(_Part):
    """A kind of thing recognised in the image, with a confidence in [0, 1]."""

    label: str
    confidence: float


class Mask(_Part):
    """A COCO run-length mask: `size` is (height, width), `counts` the compressed string of pycocotools."""

    size: tuple[int, int] = Field(strict=False)
    counts: str


class Object(_Part):
    """A tag bound to the prompt: the span that describes it and its likelihood (Eq. 6).

    `segment` adds `boxes` (x0, y0, x1, y1 in pixels) and the union `mask`; where nothing was found, no boxes and no
    mask.
    """

    label: str
    phrase: str
    likelihood: Likelihood
    boxes: list[Box] | None = None
    mask: Mask | None = None


class Refinement(_Part):
    """Which image the record shows after `refine`, and the captions and rewards on which the choice rests."""

    kept: Literal["coarse", "final"]
    coarse: Caption | None = None
    final: Caption | None = None


class WordMap(_Part):
    """How much of the attention map of a place of the text lies in the mask of its object, from 0 to 1.

    `after` is of the image that `refine` drew, `before` of the one that was there, where its maps were kept. `place`
    is where the characters of `words` start and end.
    """

    words: str
    place: tuple[int, int] = Field(strict=False)
    before: float | None = None
    after: float


class PhraseMap(WordMap):
    """The same of a noun phrase, and of each attribute in it; `area` is the mask's share of the image."""

    area: float
    attributes: list[WordMap] = Field(default_factory=list)


class Try(_Part):
    """One image that was tried for a prompt, by its text alone ("draw") or by objects that were found in the last such.

    "mend" is from the noise of that draw, "redraw" from another. Without a caption the generator made no image.
    """

    how: Literal["draw", "mend", "redraw"]
    caption: Caption | None = None
    objects: list[Object] | None = None


class Tries(_Part):
    """All images that were tried for a prompt in the order of their making, which was kept, and why no more were made.

    `kept` counts from 0. "good": the caption reward reached what is good enough; "exhausted": there were no more tries.
    """

    made: list[Try]
    kept: int
    stop: Literal["good", "exhausted"]

    @model_validator(mode="after")
    def _one_is_kept(self) -> Tries:
        if not 0 <= self.kept < len(self.made):
            raise ValueError("kept must be the place of one of those made")
        return self


class Cost(_Part):
    """What was spent on the record's image: images that the generator drew for it, and their denoising steps.

    Of images that were left out for this one it is their share, so that the costs of a folder add up to all that was
    spent. Work beside the steps counts as the steps that would take as long, and as that part of an image. `steps` is
    None where nobody knows them.
    """

    passes: int | float
    steps: int | float | None = None

    def __add__(self, other: Cost) -> Cost:
        steps = None if self.steps is None or other.steps is None else self.steps + other.steps
        return Cost(passes=self.passes + other.passes, steps=steps)


class Selection(_Part):
    """Why `select` kept the record: by which field, with what value, and of how many records of its prompt."""

    by: str
    value: float
    of: int


class Pair(_Part):
    """The other prompt of a pair that differs by two words in each other's place, such as two colours; `id` is shared.

    `eval` asks whether an image fits its own prompt better than `text`.
    """

    id: str
    text: str


class Failure(_Part):
    """Why a stage could not process the record, or only in another way than it was asked to (`recovered`)."""

    stage: str
    kind: str
    message: str
    recovered: bool = False


class Record(_Part):
    """One image of one prompt.

    Where a prompt has several, `prompt_id` names it in each of them; a record without is of the prompt of its own id.
    """

    file_name: str = ""
    text: str
    rewritten: str | None = None  # what `generate` draws in place of the text, by which all else goes
    id: str = Field(pattern=ID)
    seed: int = 42
    prompt_id: str | None = Field(default=None, pattern=ID)
    category: str | None = None
    pair: Pair | None = None
    method: str | None = None  # of `generate`, if not the plain one
    phrases: list[str] | None = None  # the noun phrases of the text by which that method goes
    caption: Caption | None = None
    tags: list[Tag] | None = None
    objects: list[Object] | None = None
    scorer: str | None = None  # who named the objects: a language model, or "rules"
    refine: Refinement | None = None
    maps: list[PhraseMap] | None = None
    tries: Tries | None = None
    select: Selection | None = None
    cost: Cost | None = None
    failures: list[Failure] = Field(default_factory=list)

    def replace(self, **changes: Any) -> Record:
        return self.model_copy(update=changes)

    @property
    def prompt_key(self) -> str:
        """The id of the prompt, by which its records stay together."""
        return self.prompt_id or self.id

    @property
    def drawn(self) -> str:
        """The prompt that the generator gets where it has nothing else to go by."""
        return self.rewritten or self.text

    @property
    def failed(self) -> bool:
        """Whether a stage could not do its part, so that later stages leave the record alone."""
        return not all(failure.recovered for failure in self.failures)


def parse_line(line: str, place: str) -> Record:
    """Read one line of JSON.

    Raises:
        UsageError: naming `place` (file:line) and the field, for anything that is not a record of this schema.
    """
    return as_record(parse_json(line, place), place)


def parse_json(line: str, place: str) -> Any:
    """What one line of JSON holds, if it can be written again and is of this schema.

    Raises:
        UsageError: naming `place` (file:line).
    """
    try:
        data = json.loads(line)
        _dumped(data).encode()  # NaN, overflowing numbers and half characters can be read but not written again
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: not a JSON record ({error}); remove or repair the line") from None
    require_schema(data, place)
    return data


def as_record(data: Any, place: str) -> Record:
    """The record that `data`, read from JSON, is.

    Raises:
        UsageError: naming `place` (file:line) and the field.
    """
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "record"
        raise UsageError(f"{place}: {field}: {first['msg']}") from None


def require_schema(data: Any, place: str) -> None:
    """Refuse JSON whose key `schema` says that a later realign wrote it and this one would misread it.

    Raises:
        UsageError: naming `place` and the schema that is needed.
    """
    schema = data.get("schema", SCHEMA) if isinstance(data, dict) else SCHEMA
    if type(schema) is not int:
        raise UsageError(f"{place}: schema: must be a whole number, such as {SCHEMA}")
    if schema > SCHEMA:
        raise UsageError(
            f"{place}: schema {schema} is needed, and this realign reads up to {SCHEMA}: pip install -U realign"
        )


def dump_line(record: Record) -> str:
    """One line of JSON without the line feed; only keys that were set, known keys first."""
    return _dumped(record.model_dump(exclude_unset=True))


def noise_seed(record: Record) -> int:
    """The seed of the image's own noise generator: a hash of (seed, id), so batch, order and shard do not matter."""
    digest = hashlib.sha256(f"{record.seed}:{record.id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _dumped(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False)
