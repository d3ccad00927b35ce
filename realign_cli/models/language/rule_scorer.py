"""A scorer without a language model: which noun phrase of the prompt speaks of each tag, found by rules.

It needs no download, no network and no key, and gives the same answer every time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from realign_cli.models.language import english
from realign_cli.records import Likelihood, Object
from realign_cli.roles import ScoredObjects, Span

_WORD = re.compile(r"['\u2019]s\b|\d+(?:[.:,]\d+)*|[^\W_]+(?:[-'\u2019](?!s\b)[^\W_]+)*|[^\w\s]")
# One letter per word: D determiner, 1 number, A adjective, C connector, n noun, x anything else. Connectors join
# adjectives ("a black, white and tan dog"); after a noun they end the phrase.
_NOUN_PHRASE = re.compile(r"D{0,3}(?:[1A]|(?<=A)C{1,2}(?=A))*n+")
_SUM = re.compile(r"nC+D*[1A]*n+$")  # "a man and a woman": a plural
_MODIFIERS = english.ADJECTIVES | english.CONNECTORS
_OUTER = english.DETERMINERS | english.NUMBERS | english.CONNECTORS | english.CLOSED | english.VERBS


@dataclass(frozen=True)
class Phrase:
    """A noun phrase: `text` is prompt[start:end]; `nouns` is the compound at its end, `head` the last of them.

    "A green Cell Phone" has the nouns ("cell", "phone") and the head "phone", in lower case. `modifiers` are the places
    of its adjectives and of the nouns before the head, which begins at `head_start`: there of "green" and "Cell".
    """

    text: str
    start: int
    end: int
    head: str
    nouns: tuple[str, ...]
    head_start: int
    modifiers: tuple[Span, ...]


class RuleScorer:
    """A `roles.Scorer` by rules: no weights and no calls, so `checkpoint`, `device` and the caps change nothing."""

    def __init__(
        self, checkpoint: str | None = None, *, device: object = None, max_calls: int = 0, max_tokens: int = 0
    ) -> None:
        del checkpoint, device, max_calls, max_tokens

    def score(self, prompts: Sequence[str], labels: Sequence[Sequence[str]]) -> list[ScoredObjects]:
        return [by_rules(prompt, own) for prompt, own in zip(prompts, labels, strict=True)]


def by_rules(prompt: str, labels: Sequence[str]) -> ScoredObjects:
    """One object per distinct label: the bound ones in the order of the prompt, then the unlikely ones.

    - 2: the prompt names the label, in singular or plural, by a synonym, or as the head of a compound ("phone" and
      "cell phone" name each other). The phrase is the noun phrase with its article, number and adjectives.
    - 0.5: the prompt names something of that kind ("person", "a man"; "teddy bear", "a polar bear"). Or one noun
      among the labels and one phrase of the prompt are left over and get each other, as "pencil" gets "a yellow
      pen" in Table 4 of the paper.
    - 0: neither. The phrase is empty.

    The mask of a label holds all of its instances, so its phrase must be true of all of them. Where different
    phrases name one label, it gets the span over them with 0.5 if they are neighbours ("a red cube and a blue
    cube"): the label is certain, but not which part of its mask each of them describes. Where another thing
    stands between them no span fits the mask, and the label gets 0.
    """
    phrases = noun_phrases(prompt)
    nowhere: tuple[int, int, Likelihood] = len(prompt), len(prompt), 0.0
    spans = dict.fromkeys(labels, nowhere)
    spoken_of: set[int] = set()
    strangers: list[str] = []
    for label in spans:
        likelihood, named = _bind(label, phrases)
        spoken_of.update(named)
        named = [i for i in named if i == named[0] or not _is_mention(phrases[i])]
        if not named:
            strangers.append(label)
        elif len({phrases[i].text.lower() for i in named}) == 1:
            spans[label] = phrases[named[0]].start, phrases[named[0]].end, likelihood
        elif named[-1] - named[0] == len(named) - 1:
            spans[label] = phrases[named[0]].start, phrases[named[-1]].end, 0.5
    strangers = [label for label in strangers if _nouns(label)]
    # What is followed by "of" measures or places another thing: "a photo of", "a pair of".
    left = [
        phrase
        for i, phrase in enumerate(phrases)
        if i not in spoken_of and not re.match(r"\s+of\b", prompt[phrase.end :], re.IGNORECASE)
    ]
    if len(strangers) == len(left) == 1:
        spans[strangers[0]] = left[0].start, left[0].end, 0.5
    objects = [
        Object(label=label, phrase=prompt[start:end], likelihood=likelihood)
        for label, (start, end, likelihood) in sorted(spans.items(), key=lambda item: item[1][0])
    ]
    return ScoredObjects(objects, "rules")


def noun_phrases(prompt: str) -> list[Phrase]:
    """The noun phrases of an English text, in order and without overlap, each from its determiner to its head.

    What follows the head begins a new phrase: "a box with three red balls" has two, and so has "the boy's red hat".
    Bare places in the picture ("on the left", "in front of") are not phrases.
    """
    tokens = list(_WORD.finditer(prompt))
    words = [token.group().lower().replace("\u2019", "'") for token in tokens]
    phrases = []
    for match in _NOUN_PHRASE.finditer(_classes(words)):
        nouns = tuple(words[match.end() - match.group().count("n") : match.end()])
        if not english.PLACES.union(english.DEFINITE).issuperset(words[match.start() : match.end()]):
            *before, head = zip(tokens[match.start() : match.end()], match.group(), strict=True)
            modifiers = tuple(token.span() for token, letter in before if letter in "An")
            start, end = tokens[match.start()].start(), head[0].end()
            phrases.append(Phrase(prompt[start:end], start, end, nouns[-1], nouns, head[0].start(), modifiers))
    return phrases


def _classes(words: Sequence[str]) -> str:
    """The class letter of each word (see `_NOUN_PHRASE`), from the words before it and the next two."""
    classes = ""
    for i in range(len(words)):
        classes += _class(words, i, classes)
    return classes


def _class(words: Sequence[str], i: int, classes: str) -> str:
    word, following, second = [*words[i : i + 3], ".", "."][:3]
    opener = len(classes.rstrip("AC")) - 1  # the word before the adjectives that lead up to this one
    opened = opener >= 0 and classes[opener] in "D1"  # "a red ...": a noun must still come
    worn = 0 <= opener < i - 1 and words[opener] in {"in", "wearing"}  # "a man in red ...": none needs to
    after_noun = classes.endswith("n")
    modifies = following[0].isalpha() and _OUTER.isdisjoint(_forms(following))  # the phrase may go on

    if word in english.DETERMINERS:
        return "D"
    if word in english.NUMBERS or word[0].isdigit():
        return "1"
    if word in english.CONNECTORS:
        return "C"
    if not word[0].isalpha() or "'" in word or word in english.CLOSED:
        return "x"
    if word in {"left", "right"} and following == "of":
        return "x"
    if word in english.SHADES:
        return "A" if following in english.ADJECTIVES or following.startswith("colo") else "n"
    if word in english.COLOUR_NOUNS and (opened or i == 0) and not modifies and second not in english.ADJECTIVES:
        return "n"
    if _MODIFIERS.issuperset(word.split("-")):  # "black-and-white" too
        return "A"
    if _is_verb(words, i, classes, opened, worn):
        return "x"
    if word in english.ING_NOUNS:
        return "x" if after_noun and following in english.DETERMINERS else "n"
    if word.endswith("ing") and len(word) > 4:
        if opened or (classes.endswith("A") and not worn):
            return "A" if modifies else "n"
        return "x"
    if word.endswith("ed") and len(word) > 4 and not word.endswith("eed") and word not in english.ED_NOUNS:
        if after_noun:  # "a snow covered hill", but "a bus parked there"
            return "n" if modifies and word in english.COMPOUND_PARTICIPLES else "x"
        return "A" if modifies and not worn else "x"
    if word.endswith("ly") and word not in english.LY_NOUNS:
        return "A" if modifies and not after_noun else "x"
    return "n"


def _is_verb(words: Sequence[str], i: int, classes: str, opened: bool, worn: bool) -> bool:
    forms = _forms(words[i])
    if forms & english.VERBS:
        return not opened
    may_be = not forms.isdisjoint(english.NOUN_VERBS)
    if not classes.endswith("n"):
        return may_be and (worn or (i > 0 and words[i - 1] in english.SUBJECTS))
    if words[i].endswith("s"):  # "a dog runs", "a cat licks a cup"
        return may_be or (i + 1 < len(words) and words[i + 1] in english.DETERMINERS)
    return may_be and (_is_plural(words[i - 1]) or _SUM.search(classes) is not None)  # "dogs run", but "a fruit stand"


def _bind(label: str, phrases: Sequence[Phrase]) -> tuple[Likelihood, list[int]]:
    """How closely the prompt names a label, and the indices of the phrases that come closest, if any do."""
    words = set(label.lower().split())
    fits = [(_closeness(_nouns(label), p.nouns), len(words.intersection(p.text.lower().split()))) for p in phrases]
    best = max(fits, default=(0.0, 0))
    return best[0], [i for i, fit in enumerate(fits) if fit == best and best[0]]


def _nouns(label: str) -> tuple[str, ...]:
    """The compound of a label, without its adjectives; empty where the label is no noun ("red", "sit")."""
    phrases = noun_phrases(label)
    return phrases[-1].nouns if phrases else ()


def _closeness(label: Sequence[str], named: Sequence[str]) -> Likelihood:
    if not label:
        return 0.0
    if all(_names(a, b) for a, b in zip(reversed(label), reversed(named), strict=False)):
        return 2.0
    a, b = label[-1], named[-1]
    return 0.5 if _names(a, b) or _is_kind(a, b) or _is_kind(b, a) else 0.0


def _names(a: str, b: str) -> bool:
    a_forms, b_forms = _forms(a), _forms(b)
    return bool(a_forms & b_forms) or any(a_forms & group and b_forms & group for group in english.SYNONYMS)


def _is_kind(kind: str, noun: str) -> bool:
    members = {member for name in english.KINDS if _names(kind, name) for member in english.KINDS[name]}
    return any(_names(noun, member) for member in members)


def _is_mention(phrase: Phrase) -> bool:
    """Whether a phrase only speaks again of something: "the dog"."""
    return set(phrase.text.lower().split()) <= english.DEFINITE.union(phrase.nouns)


def _is_plural(noun: str) -> bool:
    return noun in english.IRREGULAR_PLURALS or (noun.endswith("s") and not noun.endswith("ss"))


def _forms(word: str) -> frozenset[str]:
    """The words of which `word` may be the singular, the plural or the third person, itself included."""
    forms = {word, word.replace("-", "")}
    if word in english.IRREGULAR_PLURALS:
        forms.add(english.IRREGULAR_PLURALS[word])
    if word.endswith("men"):
        forms.add(word[:-3] + "man")
    if _is_plural(word):
        forms.add(word[:-1])
        if word.endswith("ies"):
            forms.add(word[:-3] + "y")
        elif word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
            forms.add(word[:-2])
    return frozenset(forms)
