"""Whatever a language model writes, it is either objects that hold the contract or an invalid reply, told in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realign_cli.models import instruction
from realign_cli.models.instruction import InvalidReply
from realign_cli.records import Object

PROMPT, TAGS = "A  Red book, a \u0130talian pen and the concatenated cat", ["pen", "book", "cat", "pen"]

VALUE = st.sampled_from(["pen", "book", "cat", "dog", "a red book", "A", "", "\ud800", 2, 0.5, 0, 1.7, True, None])
ENTRY = st.dictionaries(st.sampled_from(["tag", "phrase", "likelihood", "why"]), VALUE)
JSON = st.recursive(VALUE | ENTRY, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6)
REPLY = st.one_of(
    st.text(st.characters()),
    st.text('[{}]":,0 2.5e</think>'),
    JSON.map(json.dumps),
    st.lists(ENTRY).map(lambda entries: json.dumps({"objects": entries})),
)


def hold(objects: list[Object]) -> None:
    assert sorted(one.label for one in objects) == sorted(set(TAGS))
    for one in objects:
        assert one.phrase in PROMPT
        assert one.likelihood in {0, 0.5, 2} if one.phrase else one.likelihood == 0


@given(REPLY)
def test_objects_or_an_invalid_reply(reply: str) -> None:
    try:
        hold(instruction.read_objects(reply, PROMPT, TAGS))
    except InvalidReply as error:
        assert str(error).encode()


@given(REPLY, REPLY)
def test_two_turns_too(first: str, second: str) -> None:
    try:
        phrases = instruction.read_phrases(first, PROMPT, TAGS)
        hold(instruction.bind(PROMPT, TAGS, phrases, instruction.read_likelihoods(second, TAGS)))
    except InvalidReply as error:
        assert str(error).encode()


@pytest.mark.parametrize(
    ("phrase", "span"),
    [
        ("a red BOOK", "A  Red book"),
        ("a \u0130TALIAN pen", "a \u0130talian pen"),
        ("cat", "cat"),
        (" ", ""),
        ("book, a", "book, a"),
        ("concat", None),
        ("a pen", None),
        ("book.*cat", None),
    ],
)
def test_a_phrase_is_words_of_the_prompt(phrase: str, span: str | None) -> None:
    reply = json.dumps([{"tag": "book", "phrase": phrase, "likelihood": 2}])
    if span is None:
        with pytest.raises(InvalidReply, match="does not stand in the text"):
            instruction.read_objects(reply, PROMPT, TAGS)
    else:
        found = {one.label: one.phrase for one in instruction.read_objects(reply, PROMPT, TAGS)}
        assert found == {"book": span, "pen": "", "cat": ""}


def test_objects_come_in_the_order_of_the_prompt() -> None:
    reply: list[dict[str, Any]] = [
        {"tag": "cat", "phrase": "cat", "likelihood": 2},
        {"tag": "pen", "phrase": "", "likelihood": 0.5},
        {"tag": "book", "phrase": "concatenated", "likelihood": 0},
    ]
    objects = instruction.read_objects(json.dumps(reply), PROMPT, TAGS)
    assert [(one.label, one.likelihood) for one in objects] == [("book", 0.0), ("cat", 2.0), ("pen", 0.0)]


def test_the_schema_is_one_that_strict_servers_take() -> None:
    """Every object closed, every key required."""
    schema = instruction.SINGLE_SCHEMA
    for one in (schema, *schema["$defs"].values()):
        assert one["additionalProperties"] is False
        assert one["required"] == list(one["properties"])
    assert schema["$defs"]["_Entry"]["properties"]["likelihood"]["enum"] == [2, 0.5, 0]
