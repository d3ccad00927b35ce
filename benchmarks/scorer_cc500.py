"""How often the rule-based scorer finds the attributes of real prompts.

    python benchmarks/scorer_cc500.py CC-500.txt ABC-6K.txt

The files are those of Structured Diffusion Guidance (weixi-feng/Structured-Diffusion-Guidance on GitHub).

CC-500: the first 446 lines follow the template "a C N and a C N", whose two sides are the truth. A line counts when
the noun phrases are exactly the two sides, and when the scorer gives exactly these with likelihood 2 for the two nouns.

ABC-6K: each pair of lines differs by two words that trade places; words that often do are the colours. A colour is
bound when it lies in a phrase before its head; bare colours ("a woman in white") never are. It is confirmed when the
partner line has its head at the same word, the head is no known verb, and what follows the head ends a noun phrase: the
end of the line, punctuation, a function word, a word in -ing or a known verb. Known verbs are the words that follow
"that", "who", "which", "it", "he" or "she" in the file. None of this uses the vocabulary of the scorer.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from realign_cli.models.language.rule_scorer import Phrase, by_rules, noun_phrases

TEMPLATE = re.compile(r"(an? (\w+) ([\w ]+)) and ((an? )?(\w+) ([\w ]+))", re.IGNORECASE)
SUBJECTS = {"that", "who", "which", "it", "he", "she"}
NO_COLOUR = {"snow"}  # the file trades it like one
ENDS = """
    a an the his her its their this that who which while as and or but near next some other one two
    in on at of with by to from under over behind for inside against atop across through around along between above
    is are was has have without down up out off into onto underneath beside below beneath outside toward towards
"""  # words that end a noun phrase


def cc500(lines: Sequence[str]) -> dict[str, int]:
    """Counts over the first 446 lines: those of the template, and those found exactly by phrases and by scores."""
    counts = Counter(lines=0, template=0, deviating=0, phrases=0, scores=0)
    for line in lines[:446]:
        prompt = line.strip()
        match = TEMPLATE.fullmatch(prompt)
        counts["lines"] += 1
        if not match:
            continue
        sides, nouns = [match[1], match[4]], [match[3], match[7]]
        counts["template"] += 1
        counts["deviating"] += not match[5] or any(" " in noun for noun in nouns)  # no second article, or a compound
        counts["phrases"] += [phrase.text for phrase in noun_phrases(prompt)] == sides
        objects = by_rules(prompt, nouns).objects
        counts["scores"] += [(o.label, o.phrase, o.likelihood) for o in objects] == [
            (noun, side, 2.0) for noun, side in zip(nouns, sides, strict=True)
        ]
    return dict(counts)


def abc6k(lines: Sequence[str]) -> dict[str, int]:
    """Counts over the lines of all pairs in which two words trade places: colour words and whole prompts."""
    words = [re.findall(r"\w+", line.lower()) for line in lines]
    ends = set(ENDS.split())
    verbs = {b for row in words for a, b in pairwise(row) if a in SUBJECTS} - ends
    swaps = {k: _swap(words[k], words[k + 1]) for k in range(0, len(lines) - 1, 2)}
    traded = Counter(words[k][i] for k, swap in swaps.items() for i in swap)
    colours = {word for word, count in traded.items() if count >= 10} - NO_COLOUR
    counts = Counter(prompts=0, prompts_bound=0, prompts_confirmed=0, colours=0, bound=0, confirmed=0)
    for k in (k for k, swap in swaps.items() if swap):
        for line, partner in ((k, k + 1), (k + 1, k)):
            heads, others = _heads(lines[line]), _heads(lines[partner])
            whole = {i for i, head in heads.items() if _is_whole(lines[line], head, verbs, ends | verbs)}
            at = [i for i, word in enumerate(words[line]) if word in colours]
            bound = [i in heads for i in at]
            confirmed = [i in whole and heads[i] == others.get(i) for i in at]
            counts.update(
                prompts=1, prompts_bound=all(bound), prompts_confirmed=all(confirmed),
                colours=len(at), bound=sum(bound), confirmed=sum(confirmed),
            )  # fmt: skip
    return dict(counts)


def _swap(a: Sequence[str], b: Sequence[str]) -> list[int]:
    """The two places where the words of `a` and `b` trade places; empty if they differ in any other way."""
    places = [i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]]
    traded = len(a) == len(b) and len(places) == 2 and [a[i] for i in places] == [b[i] for i in reversed(places)]
    return places if traded else []


def _is_whole(line: str, head: int, verbs: set[str], ends: set[str]) -> bool:
    """Whether word number `head` is no verb and what follows ends a noun phrase: one of `ends`, -ing, punctuation."""
    words = list(re.finditer(r"\w+", line.lower()))
    following = words[head + 1].group() if head + 1 < len(words) else ""
    breaks = not re.match(r" +\w|-", line[words[head].end() :])
    return words[head].group() not in verbs and (breaks or following in ends or following.endswith("ing"))


def _heads(line: str) -> dict[int, int]:
    """For each word that comes before the head of its phrase, by number, the number of the head."""
    starts = [match.start() for match in re.finditer(r"\w+", line)]

    def inside(phrase: Phrase) -> list[int]:
        return [i for i, start in enumerate(starts) if phrase.start <= start < phrase.end]

    return {i: inside(phrase)[-1] for phrase in noun_phrases(line) for i in inside(phrase)[:-1]}


def main() -> None:
    cc, abc = (Path(path).read_text(encoding="utf-8").splitlines() for path in sys.argv[1:3])
    for name, counts in (("CC-500", cc500(cc)), ("ABC-6K", abc6k(abc))):
        total = 1
        for key, count in counts.items():
            total = count if key in {"lines", "prompts", "colours"} else total
            sys.stdout.write(f"{name} {key:18} {count:6} {count / total:7.1%}\n")


if __name__ == "__main__":
    main()
