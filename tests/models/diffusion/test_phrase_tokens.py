"""Phrases find their tokens by their places in the text."""

from __future__ import annotations

import pytest

from realign_cli.equations.binding import Binding
from realign_cli.models.diffusion.phrase_tokens import phrase_tokens, prompt_length
from realign_cli.models.language.rule_parser import RuleParser
from realign_cli.roles import NounPhrase
from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.train.tokenizers import clip_tokenizer

TOKENIZER = clip_tokenizer(scenes.words(), 16)


def found(prompt: str) -> list[tuple[str, slice, Binding]]:
    (phrases,) = RuleParser().parse([prompt])
    tokens, cut = phrase_tokens(TOKENIZER, prompt, phrases)
    assert not cut
    return [(one.text, one.place, one.words) for one in tokens]


def test_words_that_come_twice_have_their_own_places() -> None:
    """Whatever the case and however many spaces: <bos> a red circle and a blue ring and a red circle <eos>."""
    assert found("A  Red circle and a blue ring and a red CIRCLE") == [
        ("A  Red circle", slice(1, 4), Binding((3,), ((2,),))),
        ("a blue ring", slice(5, 8), Binding((7,), ((6,),))),
        ("a red CIRCLE", slice(9, 12), Binding((11,), ((10,),))),
    ]


def test_a_word_of_several_tokens_has_all_of_them() -> None:
    """An unknown word is one token for each letter."""
    assert found("a red cup, a ring") == [
        ("a red cup", slice(1, 6), Binding((3, 4, 5), ((2,),))),
        ("a ring", slice(7, 9), Binding((8,), ())),
    ]


@pytest.mark.parametrize("prompt", ["", "a", "circle", "a red circle and a blue ring"])
def test_the_length_of_a_prompt_is_without_its_ends(prompt: str) -> None:
    assert prompt_length(TOKENIZER, prompt) == len(prompt.split())


def test_what_is_not_read_in_full_is_named() -> None:
    """Of 16 tokens 14 are words; the last phrase ends at the 15th."""
    prompt = "a green cross and a pink square and a cyan circle and a blue ring"
    (phrases,) = RuleParser().parse([prompt])
    tokens, cut = phrase_tokens(TOKENIZER, prompt, phrases)
    assert [one.text for one in tokens] == ["a green cross", "a pink square", "a cyan circle"]
    assert cut == ["a blue ring"] and prompt_length(TOKENIZER, prompt) == 14
    shorter = prompt.replace("a green", "green")
    (phrases,) = RuleParser().parse([shorter])
    tokens, cut = phrase_tokens(TOKENIZER, shorter, phrases)
    assert tokens[-1].place == slice(12, 15) and cut == []


def test_the_order_in_which_phrases_are_given_changes_nothing() -> None:
    prompt = "a red circle and a blue ring and a green cross"
    (phrases,) = RuleParser().parse([prompt])
    assert phrase_tokens(TOKENIZER, prompt, phrases) == phrase_tokens(TOKENIZER, prompt, phrases[::-1])


def test_a_modifier_may_stand_outside_of_its_phrase() -> None:
    """As in a parse of "the circle is red"."""
    prompt = "the circle is red"
    phrase = NounPhrase((0, 10), (4, 10), ((14, 17),))
    (one,), cut = phrase_tokens(TOKENIZER, prompt, [phrase])
    letters = TOKENIZER.tokenize(prompt)
    head, last = letters.index("circle") + 1, len(letters)
    assert (one.words, cut) == (Binding((head,), ((last,),)), [])
