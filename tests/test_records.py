"""A record is written as it was read, unknown keys included; what is not a record is named by place and field."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realign_cli.errors import UsageError
from realign_cli.records import Record, dump_line, noise_seed, parse_line

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
LIKELIHOOD = st.sampled_from([0, 0.5, 2])
BOX = st.lists(st.integers(0, 512), min_size=4, max_size=4)
OBJECT = st.fixed_dictionaries(
    {"label": TEXT, "phrase": TEXT, "likelihood": LIKELIHOOD},
    optional={
        "boxes": st.lists(BOX, max_size=2),
        "mask": st.fixed_dictionaries({"size": st.just([64, 64]), "counts": TEXT}),
    },
)
CAPTION = st.fixed_dictionaries({"text": TEXT, "reward": st.floats(-1, 1)})
FAILURE = st.fixed_dictionaries({"stage": TEXT, "kind": TEXT, "message": TEXT}, optional={"recovered": st.booleans()})
LINE = st.fixed_dictionaries(
    {"text": TEXT, "id": st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)},
    optional={
        "file_name": TEXT,
        "seed": st.integers(),
        "prompt_id": st.just("7"),
        "caption": CAPTION,
        "tags": st.lists(st.fixed_dictionaries({"label": TEXT, "confidence": st.floats(0, 1), "of_mine": JSON})),
        "objects": st.lists(OBJECT, max_size=2),
        "refine": st.fixed_dictionaries({"kept": st.sampled_from(["coarse", "final"])}, optional={"final": CAPTION}),
        "scorer": TEXT,
        "cost": st.fixed_dictionaries({"passes": st.integers(0) | st.floats(0, 9)}, optional={"steps": st.integers(0)}),
        "failures": st.lists(FAILURE, max_size=2),
        "of_mine": JSON,
    },
)


@given(LINE)
def test_round_trip_with_unknown_keys(data: dict[str, object]) -> None:
    line = dump_line(parse_line(json.dumps(data), "f:1"))
    assert json.loads(line) == data
    assert "\n" not in line


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"text": "a", "id": "7"', "f:3: not a JSON record"),
        ("[1]", "f:3: record: "),
        ('{"id": "7"}', "f:3: text: Field required"),
        ('{"text": "a", "id": "../7"}', "f:3: id: "),
        ('{"text": "a", "id": "7\\n"}', "f:3: id: "),
        ('{"text": "a", "id": ""}', "f:3: id: "),
        ('{"text": "a", "id": "7", "seed": "42"}', "f:3: seed: "),
        ('{"text": "a", "id": "7", "tags": [{"label": "b", "confidence": NaN}]}', "f:3: not a JSON record"),
        ('{"text": "a", "id": "7", "of_mine": 1e999}', "f:3: not a JSON record"),
        ('{"text": "a", "id": "7", "of_mine": "\\ud800"}', "f:3: not a JSON record"),
        ('{"text": "a", "id": "7", "of_mine": ' + "[" * 100_000, "f:3: not a JSON record"),
        (
            '{"text": "a", "id": "7", "objects": [{"label": "b", "phrase": "", "likelihood": 1}]}',
            "f:3: objects.0.likelihood: Value error, must be 2, 0.5 or 0",
        ),
        (
            '{"text": "a", "id": "7", "objects": [{"label": "b", "phrase": "", "likelihood": 0, "boxes": [[1, 2]]}]}',
            "f:3: objects.0.boxes.0.2: Field required",
        ),
    ],
)
def test_what_is_not_a_record(line: str, complaint: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_line(line, "f:3")
    assert str(error.value).startswith(complaint)
    assert "\n" not in str(error.value)


def test_with_adds_a_key_and_leaves_the_original() -> None:
    record = Record(id="7", text="a")
    assert dump_line(record.replace(seed=1)) == '{"text": "a", "id": "7", "seed": 1}'
    assert dump_line(record) == '{"text": "a", "id": "7"}'


def test_noise_depends_on_seed_and_id_alone() -> None:
    record = Record(id="7", text="a", seed=1)
    assert noise_seed(record) == 2211135390217156495  # existing images were made with it
    assert noise_seed(record.replace(text="b", file_name="c.png")) == noise_seed(record)
    others = {noise_seed(Record(id=i, text="a", seed=s)) for i in ("7", "17", "71") for s in (1, 2, 11)}
    assert len(others) == 9 and all(0 <= seed < 2**63 for seed in others)
