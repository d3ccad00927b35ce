"""The losses of Eq. 5 on the embedded models."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from realign_cli import presets
from realign_cli.errors import UsageError
from realign_cli.registry import Models
from realign_cli.tinyworld import scenes
from realign_cli.training.examples import Examples, own_latents, penalties, real_latents
from realign_cli.training.setup import METHODS

if TYPE_CHECKING:
    from realign_cli.settings import Training
    from realign_cli.training.method import GeneratorTraining

TRAINING = replace(
    Models(presets.load("tiny")).training,
    reward="caption=1.0",
    estimator="reinforce",
    reward_weight=0.01,
    temperature=0.1,
    sampler_steps=4,
    first_step=1,
    last_step=3,
    terms_per_rollout=1,
    guidance=1.0,
    combine="sum",
    micro_batch_size=2,
    rank=4,
)
PROMPTS = ["a red circle and a blue square", "a green ring and a pink cross", "a cyan square and an orange ring"]


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(presets.load("tiny"), "cpu")


@pytest.fixture(scope="module")
def examples(models: Models) -> Examples:
    generator = models.trainable_generator(steps=4, guidance=1.0, rank=4, checkpointing=False, seed=0)
    return Examples(torch.cat([rows["latents"] for rows in own_latents(generator, PROMPTS, 2, seed=1)]), PROMPTS)


class Brightness:
    """A user's own reward."""

    margin = 0.5

    def __init__(self, models: Models) -> None:
        self.prompts: list[str] = []

    def __call__(self, pixels: torch.Tensor, prompts: list[str], seed: int) -> torch.Tensor:
        self.prompts += prompts
        return pixels.mean((1, 2, 3))


def method(models: Models, training: Training = TRAINING, examples: Examples | None = None) -> GeneratorTraining:
    generator = models.trainable_generator(steps=4, guidance=1.0, rank=4, checkpointing=False, seed=0)
    rewards = {name: models.reward(name) for name in training.rewards}
    return METHODS[training.estimator](models, generator, rewards, training, PROMPTS, examples, micro_batches=2, seed=7)


def values(made: GeneratorTraining, step: int, index: int) -> list[tuple[float, dict[str, float]]]:
    return [((loss := build()).value.item(), dict(loss.log)) for build in made.terms(step, index, nullcontext)]


def test_a_micro_batch_depends_on_its_place_alone(models: Models):
    first, second = method(models), method(models)
    values(first, 0, 0)  # what was computed before plays no part
    assert values(first, 3, 1) == values(second, 3, 1)
    assert values(first, 3, 1) != values(first, 3, 0)


def test_the_loss_is_the_scaled_hinge_and_eq_4_stands_beside_it(models: Models):
    ((loss, log),) = values(method(models), 0, 0)
    assert loss == pytest.approx(0.01 * (1 - log["reward/caption"]), rel=1e-4)
    assert loss == pytest.approx(log["loss/reward"])
    assert -1 <= log["caption_reward"] <= 1


def test_prompts_come_in_turn_each_time_in_another_order(models: Models):
    training = replace(TRAINING, reward=f"{__name__}:Brightness=1.0")
    made = method(models, training)
    (reward,) = made._rewards.values()
    for step in range(3):
        for index in range(2):
            values(made, step, index)
    assert len(reward.prompts) == 12
    epochs = [reward.prompts[i : i + 3] for i in range(0, 12, 3)]
    assert all(sorted(epoch) == sorted(PROMPTS) for epoch in epochs)
    assert any(a != b for a, b in pairwise(epochs))


def test_terms_of_one_rollout_share_one_loss(models: Models):
    parts = values(method(models, replace(TRAINING, terms_per_rollout=3)), 0, 1)
    assert len(parts) == 3
    assert [loss for loss, _ in parts] == pytest.approx([log["loss/reward"] / 3 for _, log in parts])
    assert len({log["caption_reward"] for _, log in parts}) == 3  # of three images on the way


def test_the_way_goes_on_between_terms(models: Models):
    """Three terms at steps 1, 2 and 3 look at what three single rollouts to these steps look at."""
    together = [
        log["reward/clip"]
        for _, log in values(method(models, replace(TRAINING, terms_per_rollout=3, reward="clip=1.0")), 2, 0)
    ]
    alone = []
    for at in (1, 2, 3):
        training = replace(TRAINING, reward="clip=1.0", first_step=at, last_step=at)
        alone.append(values(method(models, training), 2, 0)[0][1]["reward/clip"])
    assert together == pytest.approx(alone, abs=1e-5)


def test_sum_and_alternate(models: Models, examples: Examples):
    both = method(models, TRAINING, examples)
    assert [sorted(log) for _, log in values(both, 0, 0)] == [
        ["caption_reward", "loss/reward", "reward/caption"],
        ["loss/pretraining"],
    ]
    by_turns = method(models, replace(TRAINING, combine="alternate"), examples)
    assert [sorted(log) for _, log in values(by_turns, 1, 0)] == [["loss/pretraining"]]
    assert "loss/reward" in values(by_turns, 2, 0)[0][1]
    without = method(models, replace(TRAINING, combine="alternate"))
    assert all("loss/reward" in values(without, step, 0)[0][1] for step in (0, 1))


def test_rewards_are_combined_by_weight(models: Models):
    training = replace(TRAINING, reward="clip=0.5,blip=2.0", reward_weight=1.0)
    ((loss, log),) = values(method(models, training), 0, 0)
    assert loss == pytest.approx(0.5 * (1 - log["reward/clip"]) + 2 * (1 - log["reward/blip"]), rel=1e-4)


def test_weighted_draws_examples_by_their_reward(models: Models, examples: Examples):
    """The second of three examples has all the weight, and every draw is of it; at a high temperature all are drawn."""
    judged = replace(examples, penalties=torch.tensor([0.9, 0.0, 0.7]))
    only = replace(examples, latents=examples.latents[1:2], prompts=PROMPTS[1:2], penalties=torch.tensor([0.0]))
    cold = replace(TRAINING, estimator="weighted", temperature=1e-3)
    assert values(method(models, cold, judged), 0, 0) == values(method(models, cold, only), 0, 0)
    hot = replace(TRAINING, estimator="weighted", temperature=1e6)
    assert values(method(models, hot, judged), 0, 0) != values(method(models, hot, only), 0, 0)


def test_weighted_survives_penalties_far_above_the_temperature(models: Models, examples: Examples):
    judged = replace(examples, penalties=torch.tensor([500.0, 501.0, 502.0]))
    ((loss, _),) = values(method(models, replace(TRAINING, estimator="weighted", temperature=0.1), judged), 0, 0)
    assert 0 < loss < 10


def test_penalties_tell_a_true_caption_from_a_wrong_one(models: Models):
    """Two rendered scenes with their captions, and with each other's."""
    generator = models.trainable_generator(steps=4, guidance=1.0, rank=4, checkpointing=False, seed=0)
    drawn = [next(scenes.scenes(seed, count=2)) for seed in (1, 2)]
    pictures = [Image.fromarray(scenes.render(scene)) for scene in drawn]
    latents = torch.cat([rows["latents"] for rows in real_latents(generator, pictures, (64, 64))])
    captions = [scene.caption for scene in drawn]
    reward = {"caption": models.reward("caption", estimator="reinforce")}

    def judged(prompts: list[str]) -> torch.Tensor:
        found = penalties(generator, reward, {"caption": 1.0}, Examples(latents, prompts), 2, 0)
        return torch.cat([rows["penalties"] for rows in found])

    assert judged(captions).max() < 0.2 < 0.4 < judged(captions[::-1]).min()


def test_an_unknown_reward_names_the_known(models: Models):
    with pytest.raises(UsageError, match="'imagereward'; there are caption, clip, blip, count, itm"):
        models.reward("imagereward")


def test_real_images_become_latents(models: Models):
    generator = models.trainable_generator(steps=4, guidance=1.0, rank=4, checkpointing=False, seed=0)
    wide = Image.new("RGB", (200, 90), (128, 128, 128))
    (rows,) = list(real_latents(generator, [wide], (64, 64)))
    latents = rows["latents"]
    assert rows["framings"].tolist() == [[90, 200, 0, 39]]  # scaled by 64 / 90, of 142 columns the middle 64
    assert latents.shape == (1, 4, 16, 16)
    assert (generator.decode(latents) - 128 / 255).abs().mean() < 0.03
    thin = Image.new("RGB", (300, 1), (128, 128, 128))
    first, none, last = (rows["latents"] for rows in real_latents(generator, [thin, None, wide], (64, 64)))
    assert first.shape == none.shape == (1, 4, 16, 16) and first.isfinite().all()
    assert none.isnan().all() and torch.equal(last, latents)


def test_samples_for_people_and_for_the_monitor(models: Models):
    made = method(models)
    sheet, looks = made.sample()
    assert sheet.width > 3 * 192 and sheet.height > 3 * 192  # three prompts, three seeds
    assert set(looks) == {"caption_reward", "things", "judge/clip", "dark", "entropy", "edges", "diversity"}
    assert 1 < looks["things"] < 3 and 0.5 < looks["judge/clip"] < 1
    assert looks["entropy"] > 0 and looks["diversity"] > 0
    assert made.collapsed(looks, looks) == []
    fallen = {**looks, "judge/clip": 0.7 * looks["judge/clip"], "caption_reward": 0.1}
    assert [sign[:39] for sign in made.collapsed(fallen, looks)] == ["judge/clip, which is not trained on, fel"[:39]]


def test_what_is_trained_on_is_not_the_judge(models: Models):
    """Trained for CLIP, the judges are BLIP and Eq. 4."""
    made = method(models, replace(TRAINING, reward="clip=1.0"))
    _, looks = made.sample()
    assert {"judge/blip_itc", "judge/blip_itm"} < set(looks) and "judge/clip" not in looks
    (sign,) = made.collapsed({**looks, "caption_reward": 0.1}, looks)
    assert sign.startswith("caption_reward, which is not trained on, fell from ")


def test_draft_goes_back_through_the_sampler(models: Models):
    """The gradient of K = 2 steps is that of the sampler written out."""
    training = replace(TRAINING, estimator="draft", reward="clip=1.0", first_step=2)
    made = method(models, training)
    (build,) = made.terms(0, 0, nullcontext)
    build().value.backward()
    weights = made.trainable_parameters()
    found = {name: weight.grad.clone() for name, weight in weights.items()}

    prompts, draw = made._next_prompts(0, 0, 2), np.random.default_rng([7, 0, 0])
    generator = made._generator
    embeddings = generator.embed(prompts)
    latents = generator.denoise(generator.initial_noise(draw.integers(2**62, size=2).tolist()), embeddings, 0, 2)
    for at in (2, 3):
        times = torch.full((2,), generator.time(at))
        a, after = (generator.alphas(torch.tensor([generator.time(i)])) for i in (at, at + 1))
        if at == 3:
            after = generator.alphas(torch.tensor([0]))  # where Stable Diffusion's sampler ends
        clean = generator.predict_x0(latents, embeddings, times)
        latents = after.sqrt() * clean + (1 - after).sqrt() * (latents - a.sqrt() * clean) / (1 - a).sqrt()
    loss = 0.01 * (1 - models.reward("clip")(generator.decode(latents), prompts, 0)).mean()
    expected = torch.autograd.grad(loss, list(weights.values()))
    for (name, gradient), other in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-7, rtol=1e-3, msg=name)


def test_a_reward_without_a_gradient_is_refused_where_one_is_followed(models: Models):
    with pytest.raises(UsageError, match="--reward itm has a value and no gradient to follow; it goes with"):
        values(method(models, replace(TRAINING, reward="itm=1.0")), 0, 0)
