"""Whatever a language model writes, it is either objects that hold the contract or an invalid reply, told in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st

from realign_cli.errors import RecordError
from realign_cli.models.language import instruction, reply
from realign_cli.models.language.instruction import InvalidReply

if TYPE_CHECKING:
    from realign_cli.records import Object

PROMPT, TAGS = "A  Red book, a \u0130talian pen and the concatenated cat", ["pen", "book", "cat", "pen"]

VALUE = st.sampled_from(["pen", "book", "cat", "dog", "a red book", "A", "", "\ud800", 2, 0.5, 0, 1.7, True, None])
ENTRY = st.dictionaries(st.sampled_from(["tag", "phrase", "likelihood", "why"]), VALUE)
JSON = st.recursive(
    VALUE | ENTRY, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(VALUE.map(str), inner, max_size=3)
)
REPLY = st.one_of(
    st.text(st.characters()),
    st.text('[{}]":,0 2.5e</think>'),
    JSON.map(json.dumps),
    st.lists(ENTRY).map(lambda entries: json.dumps({"objects": entries})),
    st.dictionaries(VALUE, ENTRY).map(json.dumps),
)
PIECE = st.sampled_from(["<think>", "</think>", "[THINK]", "<|channel|>final<|message|>", "analysis", "{", '[{"', "\\"])
TALK = st.lists(PIECE | REPLY, max_size=3).map("".join)
# A message and what is around it, with anything in every place.
MESSAGE = st.dictionaries(
    st.sampled_from(["content", "reasoning", "reasoning_content", "refusal", "text", "type"]), JSON
)
CHOICE = st.fixed_dictionaries({}, optional={"message": JSON | MESSAGE, "finish_reason": JSON, "text": JSON})
BODY = st.fixed_dictionaries(
    {}, optional={"choices": JSON | st.lists(CHOICE), "usage": JSON, "error": JSON, "object": JSON, "detail": JSON}
)


def hold(objects: list[Object]) -> None:
    assert sorted(one.label for one in objects) == sorted(set(TAGS))
    for one in objects:
        assert one.phrase in PROMPT
        assert one.likelihood in {0, 0.5, 2} if one.phrase else one.likelihood == 0


@fuzzed
@given(TALK)
def test_objects_or_an_invalid_reply(said: str) -> None:
    try:
        hold(instruction.read_objects(said, PROMPT, TAGS))
    except InvalidReply as error:
        assert str(error).encode()


@fuzzed
@given(TALK, TALK)
def test_two_turns_too(first: str, second: str) -> None:
    try:
        phrases = instruction.read_phrases(first, PROMPT, TAGS)
        hold(instruction.bind(PROMPT, TAGS, phrases, instruction.read_likelihoods(second, TAGS)))
    except InvalidReply as error:
        assert str(error).encode()


@fuzzed
@given(JSON | BODY)
def test_a_text_or_a_record_error(body: Any) -> None:
    """Whatever JSON a server sends, it is an answer, an error with its words, or no completion."""
    assert reply.status_of_error(body) in {None, *range(400, 600)}
    assert reply.words_of_error(body).encode()
    try:
        completion = reply.read(body)
        assert completion.tokens >= 0 and completion.thought_too_long in {True, False}
        assert completion.answer().encode() is not None
    except RecordError as error:
        assert error.kind in {"bad_response", "refused"} and str(error).encode()


STUCK = {
    "unclosed objects": '{"a":' * 100_000,
    "unclosed lists": '[{"a":1},' * 50_000,
    "open keys": '{"' * 200_000,
    "many answers": '{"a":1}' * 80_000,
    "one tag many times": json.dumps([{"tag": "pen", "phrase": "", "likelihood": 2}] * 15_000),
    "tags that nobody gave": json.dumps([{"tag": str(n), "phrase": "", "likelihood": 2} for n in range(15_000)]),
    "one key many times": "{" + ",".join(f'"{n % 9}":1' for n in range(90_000)) + "}",
    "spaces": "{ " * 300_000,
    "a long phrase": json.dumps([{"tag": "pen", "phrase": "a red " * 90_000, "likelihood": 2}]),
}


@pytest.mark.parametrize("said", STUCK.values(), ids=STUCK)
def test_a_model_that_got_stuck_is_read_in_time(said: str) -> None:
    """Checks that look at everything again for every entry take minutes over these."""
    with pytest.raises(InvalidReply):
        instruction.read_objects(said, PROMPT, TAGS)


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
    said = json.dumps({tag: {"phrase": phrase if tag == "book" else "", "likelihood": 2} for tag in TAGS})
    if span is None:
        with pytest.raises(InvalidReply, match="does not stand in the text"):
            instruction.read_objects(said, PROMPT, TAGS)
    else:
        found = {one.label: one.phrase for one in instruction.read_objects(said, PROMPT, TAGS)}
        assert found == {"book": span, "pen": "", "cat": ""}


def test_objects_come_in_the_order_of_the_prompt() -> None:
    said: list[dict[str, Any]] = [
        {"tag": "cat", "phrase": "cat", "likelihood": 2},
        {"tag": "pen", "phrase": "", "likelihood": 0.5},
        {"tag": "book", "phrase": "concatenated", "likelihood": 0},
    ]
    objects = instruction.read_objects(json.dumps(said), PROMPT, TAGS)
    assert [(one.label, one.likelihood) for one in objects] == [("book", 0.0), ("cat", 2.0), ("pen", 0.0)]


WORDS = st.sampled_from(
    [
        "a",
        "red",
        "Book",
        "\u0130talian",
        "caf\u00e9",
        "e\u0301",
        "\u7ea2\u8272",
        "\u0e41\u0e21\u0e27",
        "dog's",
        '"',
        "and",
        "\n",
        "_",
    ]
)
PROMPTS = st.lists(WORDS, min_size=1).map(" ".join) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


@fuzzed
@given(PROMPTS, st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=6), st.randoms())
def test_whoever_holds_to_the_schema_answers_validly(prompt: str, labels: list[str], random: Any) -> None:
    schema = instruction.schema(prompt, labels)
    binding = schema["$defs"]["binding"]["properties"]
    answer = {
        tag: {key: random.choice(values["enum"]) for key, values in binding.items()} for tag in schema["properties"]
    }
    objects = instruction.read_objects(json.dumps(answer), prompt, labels)
    assert {one.label for one in objects} == set(labels)
    assert len(json.dumps(answer, indent=4)) <= instruction.most_tokens(prompt, labels)


@pytest.mark.parametrize("prompt", [PROMPT, " ".join(f"a {n} tiger and a house," for n in range(500)), "\u7ea2" * 3000])
def test_the_schema_is_one_that_strict_servers_take(prompt: str) -> None:
    """Every object closed, every key required, and no more values than providers count."""
    schema = instruction.schema(prompt, TAGS)
    binding = schema["$defs"]["binding"]
    for one in (schema, binding):
        assert one["additionalProperties"] is False
        assert one["required"] == list(one["properties"])
    assert binding["properties"]["likelihood"]["enum"] == [2, 0.5, 0]
    phrases = binding["properties"]["phrase"]["enum"]
    assert phrases[0] == "" and len(phrases) == len(set(phrases)) <= 250
    assert sum(map(len, [*phrases, *TAGS])) <= 15_000


def test_the_schema_offers_noun_phrases_first() -> None:
    phrases = instruction.schema("a red book beside a pen", ["pen"])["$defs"]["binding"]["properties"]["phrase"]["enum"]
    assert phrases[:4] == ["", "a red book", "a pen", "a red book beside a pen"]
    assert {"red", "book beside", "beside a pen"} < set(phrases)


@pytest.mark.parametrize(
    ("quotation", "prompt", "found"),
    [
        ("a dog's ball", "it is a dog\u2019s ball", "a dog\u2019s ball"),
        ("a well-known cat", "a well\u2011known cat", "a well\u2011known cat"),
        ("a cafe\u0301", "there is a caf\u00e9 here", "a caf\u00e9"),
        ("a caf\u00e9", "there is a cafe\u0301 here", "a cafe\u0301"),
        ("a cafe", "there is a cafe\u0301, a cafeteria and a caf\u00e9", None),
        ("STRASSE", "die Stra\u00dfe", "Stra\u00dfe"),
        ("stras", "die Stra\u00dfe", None),
        ("cat", "concat, cat", "cat"),
        ("\u7ea2\u8272", "\u4e00\u4e2a\u7ea2\u8272\u7684\u65b9\u5757", "\u7ea2\u8272"),
    ],
)
def test_a_quotation_may_differ_in_its_form(quotation: str, prompt: str, found: str | None) -> None:
    said = json.dumps([{"tag": "it", "phrase": quotation, "likelihood": 2}])
    if found is None:
        with pytest.raises(InvalidReply, match="does not stand in the text"):
            instruction.read_objects(said, prompt, ["it"])
    else:
        assert [one.phrase for one in instruction.read_objects(said, prompt, ["it"])] == [found]
