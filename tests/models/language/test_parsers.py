"""Parsers of noun phrases: their heads and modifiers, each at its own place."""

from __future__ import annotations

import importlib.util

import pytest

from realign_cli.errors import UsageError
from realign_cli.models.language.rule_parser import RuleParser
from realign_cli.models.language.spacy_parser import SpacyParser, phrases
from realign_cli.roles import NounPhrase

SPACY = importlib.util.find_spec("spacy") is not None
needs_spacy = pytest.mark.skipif(not SPACY, reason="spaCy is not installed: pip install 'realign[spacy]'")


def said(prompt: str, phrase: NounPhrase) -> tuple[str, str, list[str]]:
    """The words of a phrase, its head and its modifiers."""
    return (
        prompt[slice(*phrase.span)],
        prompt[slice(*phrase.head)],
        [prompt[slice(*modifier)] for modifier in phrase.modifiers],
    )


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            "A red circle and a blue square",
            [("A red circle", "circle", ["red"]), ("a blue square", "square", ["blue"])],
        ),
        ("three shiny black cell phones", [("three shiny black cell phones", "phones", ["shiny", "black", "cell"])]),
        (
            "a black, white and tan dog near a Dog",
            [("a black, white and tan dog", "dog", ["black", "white", "tan"]), ("a Dog", "Dog", [])],
        ),
        ("circle", [("circle", "circle", [])]),
        ("running quickly", []),
        ("", []),
    ],
)
def test_phrases_by_rules(prompt: str, expected: list[tuple[str, str, list[str]]]) -> None:
    (found,) = RuleParser().parse([prompt])
    assert [said(prompt, phrase) for phrase in found] == expected


def test_equal_phrases_have_places_of_their_own() -> None:
    (found,) = RuleParser().parse(["a red cup on a red cup"])
    assert found == (NounPhrase((0, 9), (6, 9), ((2, 5),)), NounPhrase((13, 22), (19, 22), ((15, 18),)))


def test_prompts_are_parsed_one_by_one() -> None:
    prompts = ["a red cup", "", "a blue dog and a cat"]
    parser = RuleParser()
    assert parser.parse(prompts) == [parser.parse([prompt])[0] for prompt in prompts]


@pytest.mark.skipif(SPACY, reason="spaCy is installed")
def test_without_spacy_it_says_what_to_install() -> None:
    with pytest.raises(UsageError, match=r"the parser needs spaCy: pip install 'realign\[spacy\]'"):
        SpacyParser("en_core_web_sm")


@needs_spacy
def test_phrases_of_a_parse() -> None:
    """Of one that is written by hand, with what is said of the dog behind it."""
    from spacy.lang.en import English
    from spacy.tokens import Doc

    doc = Doc(
        English().vocab,
        words=["the", "big", "red", "dog", "is", "happy"],
        pos=["DET", "ADJ", "ADJ", "NOUN", "AUX", "ADJ"],
        deps=["det", "amod", "amod", "nsubj", "ROOT", "acomp"],
        heads=[3, 3, 3, 4, 4, 4],
    )
    assert [said(doc.text, phrase) for phrase in phrases(doc)] == [("the big red dog", "dog", ["big", "red", "happy"])]


@needs_spacy
def test_spacy_agrees_with_the_rules_where_both_are_right() -> None:
    try:
        parser = SpacyParser("en_core_web_sm")
    except UsageError as error:
        pytest.skip(str(error))
    prompts = ["a red car and a blue dog", "a green bench on the wooden floor"]
    assert parser.parse(prompts) == RuleParser().parse(prompts)
