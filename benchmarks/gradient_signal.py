"""How much of an estimator's gradient is signal: the cosine between gradients of different images, by sampler step.

    python benchmarks/gradient_signal.py nft reinforce likelihood --ranges 0-1,1-2,3-4,5-8 --micro-batches 8

The embedded model as it is before training, its training prompts, the numbers of `[train]` and `[train-ESTIMATOR]` of
preset `tiny`, but for the steps. Each micro-batch has prompts, noise and images of its own, so that what two gradients
have in common is what the rewards teach of any image, or what the estimator does whatever the rewards say: of that,
`--set train.reward=gradient_signal:Chance=1`, which knows nothing, tells how much there is. "Images" is how many a step
would need for as much of the one as of the other, noise: with the mean cosine c of micro-batches of n images,
n (1 - c) / c. The interval is a 95 % bootstrap over micro-batches. A cosine that may be 0 says: not with these few.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch

from realign_cli import presets
from realign_cli.registry import Models
from realign_cli.tinyworld.scenes import training_prompts
from realign_cli.training.setup import METHODS, reward_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Chance:
    """A reward that is drawn at random."""

    margin = 1.0

    def __init__(self, models: Models) -> None:
        pass

    def __call__(self, pixels: Tensor, prompts: Sequence[str], seed: int) -> Tensor:
        return torch.rand(len(prompts), generator=torch.Generator().manual_seed(seed))


def gradients(
    estimator: str, first: int, last: int, count: int, seed: int, changes: Sequence[str]
) -> tuple[list[Tensor], int]:
    """The gradient of each of `count` micro-batches, at steps `first` to `last`; and the images of one."""
    changes = [f"train.estimator={estimator}", f"train.first_step={first}", f"train.last_step={last}", *changes]
    if estimator != "nft":
        changes.append("train.terms_per_rollout=1")
    models = Models(presets.load("tiny", changes), "cpu")
    training = models.training
    generator = models.trainable_generator(
        steps=training.sampler_steps, guidance=training.guidance, rank=0, checkpointing=False, seed=seed
    )
    rewards = {name: reward_of(models, name, training) for name in training.rewards}
    prompts = list(dict.fromkeys(training_prompts()))
    method = METHODS[estimator](models, generator, rewards, training, prompts, None, micro_batches=count, seed=seed)
    weights = list(method.trainable_parameters().values())
    found = []
    for index in range(count):
        for weight in weights:
            weight.grad = None
        for term in method.terms(0, index, nullcontext):
            term().value.backward()
        parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        found.append(torch.cat([part.flatten() for part in parts]).clone())
        sys.stderr.write(f"\r{estimator} {first}-{last}: {index + 1} of {count} ")
    sys.stderr.write("\n")
    return found, training.micro_batch_size


def mean_cosine(gram: np.ndarray) -> float:
    """The mean cosine of different vectors whose cosines are `gram`, (n, n); those of one with itself are left out."""
    others = gram[gram < 1 - 1e-6]
    return float(others.mean()) if len(others) else 0.0


def line(estimator: str, first: int, last: int, count: int, seed: int, changes: Sequence[str]) -> str:
    found, images = gradients(estimator, first, last, count, seed, changes)
    norms = torch.stack([one.norm() for one in found])
    units = torch.stack([one / norm.clamp(min=1e-12) for one, norm in zip(found, norms, strict=True)])
    gram = (units @ units.T).numpy()
    draws = np.random.default_rng(0).integers(count, size=(2000, count))
    low, high = np.quantile([mean_cosine(gram[np.ix_(d, d)]) for d in draws], [0.025, 0.975])
    cosine = mean_cosine(gram)
    needed = f"{images * (1 - cosine) / cosine:.0f}" if low > 0 else "-"
    cells = [estimator, f"{first} to {last}", f"{count} x {images}", f"{cosine:+.3f} ({low:+.3f} to {high:+.3f})"]
    return f"| {' | '.join([*cells, f'{norms.median():.3g}', needed])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("estimators", nargs="+", metavar="ESTIMATOR")
    parser.add_argument("--ranges", default="0-1,1-2,3-4,5-8", help="first and last step, of 10")
    parser.add_argument("--micro-batches", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    sys.stdout.write("| estimator | steps | images | cosine | norm | images for as much signal as noise |\n")
    sys.stdout.write("|---|---|---|---|---|---|\n")
    for estimator in arguments.estimators:
        for one in arguments.ranges.split(","):
            first, last = map(int, one.split("-"))
            sys.stdout.write(
                line(estimator, first, last, arguments.micro_batches, arguments.seed, arguments.set) + "\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
