"""Where the phrases of a prompt stand among its tokens: by the places of characters, for most words come twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from realign_cli.equations.binding import Binding

if TYPE_CHECKING:
    from realign_cli.equations.binding import Word
    from realign_cli.roles import NounPhrase, Span


@dataclass(frozen=True)
class PhraseTokens:
    """A noun phrase, the place of all its tokens, and those of its words."""

    text: str
    place: slice
    words: Binding


def phrase_tokens(tokenizer: Any, prompt: str, phrases: Sequence[NounPhrase]) -> tuple[list[PhraseTokens], list[str]]:
    """The phrases that a text encoder reads in full, in their order in the prompt, and the texts of the others.

    `tokenizer` is a fast one. Token 0 is BOS; what is beyond its `model_max_length`, EOS included, is not read.
    """
    offsets = tokenizer(prompt, return_offsets_mapping=True, verbose=False).offset_mapping
    last = min(len(offsets), tokenizer.model_max_length) - 1  # which is EOS

    def tokens(span: Span) -> Word:
        return tuple(i for i, (start, end) in enumerate(offsets) if max(start, span[0]) < min(end, span[1]))

    found, cut = [], []
    for phrase in sorted(phrases, key=lambda phrase: (phrase.span, phrase.head)):
        text = prompt[slice(*phrase.span)]
        words = [tokens(span) for span in (phrase.span, phrase.head, *phrase.modifiers)]
        if all(words) and max(token for word in words for token in word) < last:
            whole, head, *modifiers = words
            found.append(PhraseTokens(text, slice(whole[0], whole[-1] + 1), Binding(head, tuple(modifiers))))
        else:
            cut.append(text)
    return found, cut


def prompt_length(tokenizer: Any, prompt: str) -> int:
    """How many tokens of a prompt are read, BOS and EOS not among them."""
    return len(tokenizer(prompt, truncation=True).input_ids) - 2
