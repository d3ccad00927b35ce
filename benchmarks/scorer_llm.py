"""How well a language model binds tags, next to the rules: valid answers, right phrases and right likelihoods.

    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 python benchmarks/scorer_llm.py MODEL CC-500.txt [-n 200]

MODEL is the server's name of the model, or "rules". Two sets of prompts are "a C N and a C N" throughout, so that the
prompt itself says the truth: `realign prompts shapes`, and the first 446 lines of CC-500 of Structured Diffusion
Guidance, without those that hold more than the template. The tags are the two nouns and one that the prompt does not
speak of, a noun of another line, in an order drawn at a fixed seed. Right is the noun's side of the prompt with 2; for
the other tag "" and 0.

An answer is valid where the model's own was taken, if need be after it was sent back once. Intervals are those of
Wilson at 95 %.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from realign_cli.models.language.llm_scorer import LanguageModelScorer
from realign_cli.models.language.rule_scorer import RuleScorer
from realign_cli.tinyworld.scenes import held_out_prompts

TEMPLATE = re.compile(r"(an? \w+ (\w+)) and (an? \w+ (\w+))", re.IGNORECASE)
Case = tuple[str, list[str], dict[str, str]]  # a prompt, its tags, and the phrase of each


def cases(prompts: Sequence[str], count: int) -> list[Case]:
    matches = [match for prompt in prompts if (match := TEMPLATE.fullmatch(prompt.strip())) and match[2] != match[4]]
    nouns = sorted({noun for match in matches for noun in (match[2], match[4])})
    made, rng = [], random.Random(42)
    for match in matches[:count]:
        phrases = {match[2]: match[1], match[4]: match[3]}
        phrases[rng.choice([noun for noun in nouns if noun not in phrases])] = ""
        tags = list(phrases)
        rng.shuffle(tags)
        made.append((match[0], tags, phrases))
    return made


def count(scorer: LanguageModelScorer | RuleScorer, asked: Sequence[Case]) -> dict[str, tuple[int, int]]:
    """What was right, and of how many."""
    scored = scorer.score([prompt for prompt, _, _ in asked], [tags for _, tags, _ in asked])
    counts: Counter[str] = Counter()
    for one, (_, _, phrases) in zip(scored, asked, strict=True):
        counts["valid answers"] += one.recovered is None
        if one.recovered is None:
            counts["right phrases"] += sum(found.phrase == phrases[found.label] for found in one.objects)
            counts["right likelihoods"] += sum(
                found.likelihood == (2 if phrases[found.label] else 0) for found in one.objects
            )
    total = sum(len(tags) for _, tags, _ in asked)
    of = {"valid answers": len(asked), "right phrases": total, "right likelihoods": total}
    return {name: (counts[name], of[name]) for name in of}


def interval(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    middle, half = right + z * z / 2, z * math.sqrt(right * (n - right) / n + z * z / 4)
    return (middle - half) / (n + z * z), (middle + half) / (n + z * z)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("cc500", type=Path)
    parser.add_argument("-n", type=int, default=200, help="prompts of each set")
    parser.add_argument("--concurrency", type=int, default=4, help="questions at a time")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one answer")
    given = parser.parse_args()
    options = {"concurrency": given.concurrency, "timeout": given.timeout, "retries": 0}
    scorer = RuleScorer() if given.model == "rules" else LanguageModelScorer(given.model, **options)
    sets = {"shapes": held_out_prompts(), "CC-500": given.cc500.read_text(encoding="utf-8").splitlines()[:446]}
    for name, prompts in sets.items():
        asked, began = cases(prompts, given.n), time.monotonic()
        for what, (right, n) in count(scorer, asked).items():
            low, high = interval(right, n)
            sys.stdout.write(f"{name} {what:18} {right:4} of {n:4} {right / n:7.1%} ({low:.1%} to {high:.1%})\n")
        sys.stdout.write(f"{name} {(time.monotonic() - began) / len(asked):.2f} s a prompt\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
