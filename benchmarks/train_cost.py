"""What a reward term of `realign train` costs beside the published loop's order of work, on the same models.

    python benchmarks/train_cost.py [--quick]

The published loop (ImageReward's ReFL.py) draws each reward term from a rollout of its own: 30 to 39 of 40 steps
without guidance, then one step with gradient. Ours is run with the preset's sampler and with several terms per rollout.
All use the same embedded generator, captioner and gradient, batches of 4, one thread. These are other estimators of
Eq. 5, so there are no equal results to compare; every way must give a finite gradient.

The shares are those of a micro-batch with the preset's sampler: what its parts took, the rest being the way back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import torch
from ratios import PAIRS, Row, in_turn, main, peaks, ratios

from realign_cli import presets
from realign_cli.registry import Models
from realign_cli.tinyworld.scenes import training_prompts
from realign_cli.training import feedback
from realign_cli.training.feedback import RewardFeedback

MODELS = Models(presets.load("tiny"), "cpu")
BATCH = 4
PUBLISHED, PRESET = "published loop", "the preset's sampler, 1 term per rollout"
# steps of the sampler, guidance, first and last step of a reward term, terms per rollout
WAYS = {
    PUBLISHED: (40, 1.0, 30, 39, 1),
    PRESET: (10, 3.0, 2, 5, 1),
    "the preset's sampler, 2 terms per rollout": (10, 3.0, 2, 5, 2),
    "the preset's sampler, 4 terms per rollout": (10, 3.0, 2, 5, 4),
}


def method(name: str) -> tuple[RewardFeedback, Any]:
    """The loop of one way, and the model that it trains."""
    steps, guidance, first, last, terms = WAYS[name]
    generator = MODELS.trainable_generator(steps=steps, guidance=guidance, rank=0, checkpointing=False, seed=0)
    training = replace(
        MODELS.training,
        reward="caption=1.0",
        estimator="reinforce",
        reward_weight=1.0,
        sampler_steps=steps,
        first_step=first,
        last_step=last,
        terms_per_rollout=terms,
        guidance=guidance,
        combine="sum",
        micro_batch_size=BATCH,
    )
    rewards = {"caption": MODELS.reward("caption", estimator="reinforce")}
    made = RewardFeedback(MODELS, generator, rewards, training, training_prompts(), None, micro_batches=1, seed=0)
    return made, generator


def micro_batch(made: RewardFeedback, steps: Iterator[int]) -> None:
    """One of the next optimiser step, which draws prompts, noise and the sampler's step anew."""
    for build in made.terms(next(steps), 0, nullcontext):
        build().value.backward()
    for weight in made.trainable_parameters().values():
        assert weight.grad is not None and weight.grad.isfinite().all()
        weight.grad = None


def shares(rounds: int) -> dict[str, list[float]]:
    """The share of each part in every micro-batch of the preset."""
    made, generator = method(PRESET)
    spent: dict[str, float] = {}

    def watch(owner: object, name: str, part: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any) -> Any:
            began = time.process_time()
            result = original(*arguments)
            spent[part] += time.process_time() - began
            return result

        setattr(owner, name, timed)

    watch(generator, "denoise", "rollout")
    watch(generator, "predict_x0", "the step with gradient")
    watch(generator, "decode", "decoding")
    watch(feedback, "penalise", "captions and rewards")
    watch(made, "_exact", "captions and rewards")
    parts = ("rollout", "the step with gradient", "decoding", "captions and rewards", "the way back")
    found: dict[str, list[float]] = {part: [] for part in parts}
    steps = count()
    for _ in range(rounds):
        spent = dict.fromkeys(parts, 0.0)
        began = time.process_time()
        micro_batch(made, steps)
        whole = time.process_time() - began
        spent["the way back"] = whole - sum(spent.values())
        for part in parts:
            found[part].append(spent[part] / whole)
    return found


def measure(quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    names = [PRESET] if quick else [name for name in WAYS if name != PUBLISHED]
    found = []
    if not quick:
        times = in_turn({name: partial(micro_batch, method(name)[0], count()) for name in WAYS}, quick=quick)
        memory = peaks(__file__, list(WAYS))
        for name in names:
            per_term = [WAYS[name][-1] * ratio for ratio in ratios(times, PUBLISHED, name)]
            found.append(Row(f"a reward term: published loop / {name}", per_term, "40 steps, a rollout a term"))
        found += [
            Row(f"peak memory of the process: published loop / {name}", ratios(memory, PUBLISHED, name))
            for name in names
        ]
    return found + [
        Row(f"share of {part} in a micro-batch of {PRESET}", values)
        for part, values in shares(1 if quick else PAIRS).items()
    ]


def only(way: str) -> None:
    torch.set_num_threads(1)
    micro_batch(method(way)[0], count())


if __name__ == "__main__":
    main(measure, only)
