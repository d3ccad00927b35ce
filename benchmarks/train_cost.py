"""What a reward term of `realign train` costs beside the published loop's order of work, on the same models.

    python benchmarks/train_cost.py [--pairs 5] [--batch 8]

The published loop (ImageReward's ReFL.py) draws each reward term from a rollout of its own: 30 to 39 of 40 steps
without guidance, then one step with gradient. Ours is run with the preset's sampler and with several terms per rollout.
All use the same generator, captioner and gradient, interleaved in one process; the ratio is what to read, not the
seconds. Each way runs once more in a process of its own for its peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from realign_cli import presets
from realign_cli.registry import Models
from realign_cli.stages.train import Feedback, RewardFeedback
from realign_cli.tinyworld.scenes import training_prompts

# steps of the sampler, guidance, first and last step of a reward term, terms per rollout
WAYS = {
    "published loop": (40, 1.0, 30, 39, 1),
    "preset, 1 term": (10, 3.0, 2, 5, 1),
    "preset, 2 terms": (10, 3.0, 2, 5, 2),
    "preset, 4 terms": (10, 3.0, 2, 5, 4),
}


def method(models: Models, name: str, batch: int) -> RewardFeedback:
    steps, guidance, first, last, terms = WAYS[name]
    trainee = models.trainee(steps=steps, guidance=guidance, rank=0, checkpointing=False, seed=0)
    feedback = Feedback(
        rewards={"caption": 1.0},
        weighted=False,
        scale=1.0,
        temperature=0.1,
        first_step=first,
        last_step=last,
        terms=terms,
        combine="sum",
        batch_size=batch,
        micro_batches=1,
        seed=0,
    )
    rewards = {"caption": models.reward("caption", estimator="reinforce")}
    return RewardFeedback(models, trainee, rewards, feedback, training_prompts(), None)


def seconds_per_term(made: RewardFeedback, name: str, step: int, batch: int) -> float:
    began = time.perf_counter()
    for build in made.terms(step, 0):
        build().value.backward()
    for weight in made.trained().values():
        weight.grad = None
    return (time.perf_counter() - began) / (WAYS[name][-1] * batch)


def peak_megabytes(name: str, batch: int) -> float:
    """Of a process that computes this way alone, above one that only loads the models."""
    done = subprocess.run(
        [sys.executable, __file__, "--only", name, "--batch", str(batch)], capture_output=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    models = Models(presets.load("tiny"), "cpu")
    if arguments.only:
        made = method(models, arguments.only, arguments.batch)
        loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds_per_term(made, arguments.only, 0, arguments.batch)
        sys.stdout.write(str((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - loaded) / 1024))
        return
    ways = {name: method(models, name, arguments.batch) for name in WAYS}
    for name, made in ways.items():
        seconds_per_term(made, name, 0, arguments.batch)
    rounds = [
        {name: seconds_per_term(made, name, step, arguments.batch) for name, made in ways.items()}
        for step in range(1, arguments.pairs + 1)
    ]
    for name in WAYS:
        times = [one[name] for one in rounds]
        ratios = [one["published loop"] / one[name] for one in rounds]
        line = {
            "way": name,
            "seconds per term and sample": round(statistics.median(times), 4),
            "published / this": round(statistics.median(ratios), 2),
            "range": [round(min(ratios), 2), round(max(ratios), 2)],
            "n": len(ratios),
            "peak MB over loading": round(peak_megabytes(name, arguments.batch)),
        }
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
