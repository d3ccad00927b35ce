"""Spans of a prompt: which parts of it are whole words, and which of them a quotation means.

A word ends where a letter meets what is none. Some scripts write no spaces between words, or tie particles to them, so
that only a reader knows where a word ends: between their letters any place may be the end of one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import chain

from realign_cli.models.language.rule_scorer import noun_phrases

# Letters of scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, kana, Han and, for its particles,
# Hangul.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1100-\u11ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uffdc\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)
_QUOTES, _DOUBLE, _DASHES = "\u2018\u2019\u02bc`\u00b4", "\u201c\u201d\u201e", "\u2010\u2011\u2012\u2013\u2014\u2212"
_ALIKE = {ord(char): plain for chars, plain in ((_QUOTES, "'"), (_DOUBLE, '"'), (_DASHES, "-")) for char in chars}


def find(quotation: str, prompt: str) -> str | None:
    """The first whole words of the prompt that a quotation means, as the prompt writes them; None if there are none.

    Spaces, case, the form of quotation marks and dashes, and the Unicode form of the letters may differ.
    """
    wanted = "".join(folded for folded, _ in _folded(quotation.strip()))
    pieces = list(_folded(prompt))
    text = "".join(folded for folded, _ in pieces)
    starts, ends, at = {}, {}, 0  # places in the folded text at which a place of the prompt is folded to
    for folded, (start, end) in pieces:
        starts[at], ends[at + len(folded)] = start, end
        at += len(folded)
    at = text.find(wanted)
    while wanted and at >= 0:
        first, last = starts.get(at), ends.get(at + len(wanted))
        if first is not None and last is not None and not (_in_word(prompt, first) or _in_word(prompt, last)):
            return prompt[first:last]
        at = text.find(wanted, at + 1)
    return None


def candidates(prompt: str) -> Iterator[str]:
    """What a phrase may be, each once: the noun phrases, then what two of them and the words between them make up, then
    all other runs of whole words, the shortest first.
    """
    found = [(phrase.start, phrase.end) for phrase in noun_phrases(prompt)]
    nouns = [place for place in found if not any(_in_word(prompt, at) for at in place)]
    letters = [unicodedata.category(char)[0] in "LNM" for char in prompt]
    edges = [at for at in range(len(prompt) + 1) if not _in_word(prompt, at)]
    starts = [at for at in edges if at < len(prompt) and letters[at]]
    ends = [at for at in edges if at and letters[at - 1]]
    seen = {""}
    for start, end in chain(_runs([start for start, _ in nouns], [end for _, end in nouns]), _runs(starts, ends)):
        if prompt[start:end] not in seen:
            seen.add(prompt[start:end])
            yield prompt[start:end]


def _runs(starts: Sequence[int], ends: Sequence[int]) -> Iterator[tuple[int, int]]:
    """From where one part starts to where it or a later one ends, the fewest parts first."""
    for more in range(len(starts)):
        yield from zip(starts, ends[more:], strict=False)


def _in_word(prompt: str, at: int) -> bool:
    """Whether a word or a letter with its marks would be cut in two there."""
    if not 0 < at < len(prompt):
        return False
    if unicodedata.category(prompt[at])[0] == "M":
        return True
    return not any(_ends_a_word(char) for char in prompt[at - 1 : at + 1])


def _ends_a_word(char: str) -> bool:
    return not (char.isalnum() or char == "_" or unicodedata.category(char)[0] == "M") or bool(_UNSPACED.match(char))


def _folded(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """What a text reads like where its form does not count, piece by piece, each with its place in the text."""
    for piece in re.finditer(r"\s+|.", text, re.DOTALL):
        char = piece.group()
        folded = " " if char.isspace() else unicodedata.normalize("NFKD", char.translate(_ALIKE).casefold())
        yield folded, piece.span()
