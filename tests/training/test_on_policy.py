"""Training from prompts alone, on the embedded models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from realign_cli import presets
from realign_cli.registry import Models
from realign_cli.training.setup import METHODS

if TYPE_CHECKING:
    from realign_cli.roles import TrainableGenerator
    from realign_cli.training.method import GeneratorTraining

TRAINING = replace(
    Models(presets.load("tiny")).training,
    reward=f"{__name__}:Brightness=1.0",
    estimator="nft",
    sampler_steps=4,
    first_step=1,
    last_step=2,
    terms_per_rollout=2,
    guidance=1.0,
    images_per_prompt=4,
    micro_batch_size=8,
    rank=4,
)
PROMPTS = ["a red circle and a blue square", "a green ring and a pink cross", "a cyan square and an orange ring"]


class Brightness:
    """A user's own reward, which gives no gradient."""

    margin = 1.0

    def __init__(self, models: Models) -> None:
        self.prompts: list[list[str]] = []

    def __call__(self, pixels: torch.Tensor, prompts: list[str], seed: int) -> torch.Tensor:
        self.prompts.append(list(prompts))
        return pixels.detach().mean((1, 2, 3))


class Alike(Brightness):
    """Tells no two images apart."""

    def __call__(self, pixels: torch.Tensor, prompts: list[str], seed: int) -> torch.Tensor:
        return torch.full((len(prompts),), 0.3)


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(presets.load("tiny"), "cpu")


def opened(models: Models) -> TrainableGenerator:
    return models.trainable_generator(steps=4, guidance=1.0, rank=4, checkpointing=False, seed=0)


def method(
    models: Models, generator: TrainableGenerator, reward: str = "Brightness", **changes: object
) -> GeneratorTraining:
    training = replace(TRAINING, reward=f"{__name__}:{reward}=1.0", **changes)
    rewards = {name: models.reward(name) for name in training.rewards}
    return METHODS[training.estimator](models, generator, rewards, training, PROMPTS, None, micro_batches=2, seed=7)


def values(made: GeneratorTraining, step: int, index: int) -> list[tuple[float, dict[str, float]]]:
    return [((loss := build()).value.item(), dict(loss.log)) for build in made.terms(step, index, nullcontext)]


@pytest.mark.parametrize("estimator", ["nft", "ddpo"])
def test_a_micro_batch_depends_on_its_place_alone(models: Models, estimator: str):
    first, second = (method(models, opened(models), estimator=estimator) for _ in range(2))
    values(first, 0, 0)  # what was computed before plays no part
    assert values(first, 3, 1) == values(second, 3, 1)
    assert values(first, 3, 1) != values(first, 3, 0)


def test_a_prompt_has_its_images_together_and_all_prompts_have_their_turn(models: Models):
    made = method(models, opened(models))
    for step, index in ((0, 0), (0, 1), (1, 0)):
        values(made, step, index)
    (reward,) = made._rewards.values()
    firsts = [prompts[::4] for prompts in reward.prompts]
    assert all(prompts == [p for p in firsts[i] for _ in range(4)] for i, prompts in enumerate(reward.prompts))
    assert sorted(prompt for own in firsts for prompt in own) == sorted(PROMPTS * 2)


def test_what_is_drawn_and_what_is_stayed_close_to_come_from_the_average(models: Models):
    """With an average that draws otherwise, the images are its own, and the policy in training has moved from it."""
    generator = opened(models)
    weights = generator.trainable_parameters()

    @contextmanager
    def other() -> Iterator[None]:
        for weight in weights.values():
            weight.data += 0.05
        yield
        for weight in weights.values():
            weight.data -= 0.05

    made = method(models, generator)
    plain = [build().log for build in made.terms(0, 0, nullcontext)]
    averaged = [build().log for build in made.terms(0, 0, other)]
    assert all(log["moved"] == 0 for log in plain)
    assert all(log["moved"] > 0 for log in averaged)
    assert plain[0]["caption_reward"] != averaged[0]["caption_reward"]


def test_the_images_of_a_group_get_the_same_noise_at_the_same_time(models: Models, monkeypatch: pytest.MonkeyPatch):
    generator = opened(models)
    add_noise, seen = generator.add_noise, []

    def spy(latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        seen.append((noise, times))
        return add_noise(latents, noise, times)

    monkeypatch.setattr(generator, "add_noise", spy)
    values(method(models, generator), 0, 0)
    (noise, times), (fresh, _) = seen
    assert torch.equal(noise[:4], noise[:1].expand(4, -1, -1, -1)) and len(times[:4].unique()) == 1
    assert not torch.equal(noise[0], noise[4]) and not torch.equal(noise[0], fresh[0])


@pytest.mark.parametrize("estimator", ["nft", "ddpo"])
def test_images_of_one_reward_teach_nothing(models: Models, estimator: str):
    generator = opened(models)
    made = method(models, generator, "Alike", estimator=estimator)
    (loss,) = [build() for build in made.terms(0, 0, nullcontext)]
    loss.value.backward()
    assert loss.log["learnt"] == 0
    assert not any(w.grad is not None and w.grad.any() for w in generator.trainable_parameters().values())


class Gaussian:
    """Draws one number per image from N(mean, 1), of which its denoiser is the best there is; it learns the mean."""

    steps = 4

    def __init__(self) -> None:
        self.mean = torch.nn.Parameter(torch.zeros(()))

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        return {"mean": self.mean}

    def embed(self, prompts: list[str]) -> torch.Tensor:
        return torch.zeros(len(prompts), 1, 1)

    def initial_noise(self, seeds: list[int]) -> torch.Tensor:
        return torch.stack([torch.randn(1, 1, 1, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    def denoise(self, latents: torch.Tensor, embeddings: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        return latents + self.mean

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.sigmoid().expand(-1, 3, 8, 8)

    def time(self, step: int) -> int:
        return 900 - 250 * step

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        a = self.alphas(times)
        return a.sqrt() * latents + (1 - a).sqrt() * noise

    def predict_x0(
        self, latents: torch.Tensor, embeddings: torch.Tensor, times: torch.Tensor, *, guided: bool = True
    ) -> torch.Tensor:
        a = self.alphas(times)
        return self.mean + a.sqrt() * (latents - a.sqrt() * self.mean)

    def alphas(self, times: torch.Tensor) -> torch.Tensor:
        return 1 - times.clamp(min=0)[:, None, None, None] / 1000


@pytest.mark.parametrize("estimator", ["nft", "ddpo"])
def test_a_known_policy_moves_to_the_better_images(models: Models, estimator: str):
    """The reward is the number itself, which a higher mean raises, and no gradient of it is ever taken."""
    generator = Gaussian()
    made = method(models, generator, estimator=estimator, micro_batch_size=16, images_per_prompt=8)
    optimizer = torch.optim.SGD([generator.mean], lr=0.3)
    means = []
    for step in range(12):
        for build in made.terms(step, 0, nullcontext):
            build().value.backward()
        optimizer.step()
        optimizer.zero_grad()
        means.append(generator.mean.item())
    assert means[-1] > means[5] > 0.2
