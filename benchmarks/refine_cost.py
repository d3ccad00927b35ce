"""What the fine stage costs over plain generation, and what the published order of work would cost.

    python benchmarks/refine_cost.py [--quick]

A step is a call of the UNet with its conditional and unconditional half, one image of two overlapping objects that
cover 38 % of it, in float32: the embedded UNet, and one of the size of Stable Diffusion 1.x at 512 x 512 with random
weights. The first 30 % of a run's steps are modulated, so a run costs 0.3 modulated and 0.7 other steps, and in ours
these are plain ones, bit for bit. In the published order of work (DenseDiffusion) every attention of every step has its
matrix written out; its own chain of operations makes more copies than the one here. That modulated steps of both orders
predict the same is checked before they are timed.

Last, whole images of the embedded models against a stock diffusers pipeline, which draws the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from attention_layer import masks
from diffusers import UNet2DConditionModel
from ratios import PAIRS, Row, Times, in_turn, main, peaks, ratios
from torch import Tensor

from realign_cli import presets
from realign_cli.equations import attention as eq
from realign_cli.models.diffusion.attention_control import Layout, modulated
from realign_cli.registry import Models
from realign_cli.roles import Region, Request

MODELS = Models(presets.load("tiny", ["refine.method=modulation"]), "cpu")
BOTH = MODELS.region_control
CROSS_ONLY = replace(BOTH, self_weight=0.0)
PROMPT, PHRASES = "a red circle and a blue ring", ("a red circle", "a blue ring")
TIMESTEPS = torch.arange(951, 0, -50)
MANY = 25  # rounds of what is over soon, and so at the mercy of the machine
FIRST, LAST = TIMESTEPS[0], TIMESTEPS[-1]  # modulated, and not
SD15, TINY = "UNet of the size of SD 1.x, 512 x 512", "embedded UNet, 64 x 64"


class Published:
    """Attention with its matrix written out; modulated as at `timestep`, unless that is None."""

    def __init__(self, layout: Layout, timestep: Tensor | None) -> None:
        self.layout, self.timestep = layout, timestep
        self.maps: dict[tuple[int, bool], tuple[Tensor, Tensor]] = {}

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: None = None
    ) -> Tensor:
        cross = encoder_hidden_states is not None
        context = encoder_hidden_states if cross else hidden_states
        query, key, value = (
            x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        logits = eq.logits(query, key)
        if self.timestep is not None:
            logits[1] = eq.modulate(logits[1], *self.map(logits.shape[-2], cross))
        out = logits.softmax(-1) @ value
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))

    def map(self, queries: int, cross: bool) -> tuple[Tensor, Tensor]:
        """R and the weight of a layer."""
        if (queries, cross) not in self.maps:
            side, layout = round(queries**0.5), self.layout  # of square latents
            small = eq.shrink(layout.masks, side, side).flatten(1)
            where = eq.segments(small)
            strength = eq.strength(float(self.timestep), BOTH.cross_weight if cross else BOTH.self_weight, BOTH.power)
            score = eq.token_score(layout.tokens, layout.likelihoods, 1.0) if cross else 1.0
            match = eq.token_match(small, layout.tokens) if cross else where.same @ where.onehot.T > 0
            weight = eq.modulation_weight(strength, where.area[:, None], score, clamp=BOTH.clamp_lambda)
            self.maps[queries, cross] = match, weight
        return self.maps[queries, cross]


def steps(
    unet: UNet2DConditionModel, side: int, count: int, added: dict[str, Tensor] | None = None
) -> dict[str, Callable[[], Tensor]]:
    """`count` equal steps of `unet` in each way, and what the last of them predicts; `added` is what XL is told."""
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, side, side, generator=draw).repeat(2, 1, 1, 1)
    context = torch.randn(2, 77, unet.config.cross_attention_dim, generator=draw)
    tokens = torch.zeros(2, 77, dtype=torch.bool)
    tokens[0, 1:4], tokens[1, 5:8] = True, True
    layout = Layout(masks(8 * side), tokens, torch.tensor([2.0, 2.0]))
    stock = unet.attn_processors

    @torch.no_grad()
    def call(timestep: Tensor) -> Tensor:
        for _ in range(count):
            predicted = unet(latents, timestep, encoder_hidden_states=context, added_cond_kwargs=added).sample
        return predicted

    def ours(modulation: Any, timestep: Tensor) -> Tensor:
        with modulated(unet, [layout], modulation, TIMESTEPS):
            return call(timestep)

    def published(timestep: Tensor, modulate: bool) -> Tensor:
        unet.set_attn_processor(Published(layout, timestep if modulate else None))
        try:
            return call(timestep)
        finally:
            unet.set_attn_processor(dict(stock))

    return {
        "plain": lambda: call(FIRST),
        "cross": lambda: ours(CROSS_ONLY, FIRST),
        "both": lambda: ours(BOTH, FIRST),
        "published, modulated": lambda: published(FIRST, True),
        "published, other": lambda: published(FIRST, False),
        "ours, other": lambda: ours(BOTH, LAST),
        "plain, last": lambda: call(LAST),
    }


def check(ways: dict[str, Callable[[], Tensor]]) -> None:
    """Ours is the published modulation, and nothing where nothing is modulated."""
    assert torch.equal(ways["ours, other"](), ways["plain, last"]())
    ours, plain = ways["both"](), ways["plain"]()
    torch.testing.assert_close(ours, ways["published, modulated"](), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ours, plain, atol=1e-3), "nothing was modulated"


def load(name: str) -> tuple[UNet2DConditionModel, int, int]:
    """A UNet, the side of its latents, and how many steps to time together: a small one's are those a run modulates."""
    if name == TINY:
        return MODELS.generator.pipeline.unet, 16, round(BOTH.step_fraction * len(TIMESTEPS))
    torch.manual_seed(0)
    model = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).eval()
    with torch.no_grad():  # sharp attention: random weights would attend evenly, and there is no headroom in that
        for key, weight in model.named_parameters():
            if key.endswith(("to_q.weight", "to_k.weight")):
                weight *= 3
    return model, 64, 1


def run(times: Times, modulated_step: str, other: str) -> list[float]:
    """A run of 30 % modulated steps / one of plain steps."""
    share = BOTH.step_fraction
    columns = zip(times[modulated_step], times[other], times["plain"], strict=True)
    return [(share * first + (1 - share) * rest) / plain for first, rest, plain in columns]


def rows(name: str, quick: bool) -> list[Row]:
    ways = steps(*load(name))
    check(ways)
    timed = ("plain", "cross", "both", "published, modulated", "published, other")
    times = in_turn({way: ways[way] for way in timed}, quick=quick, rounds=MANY if name == TINY else PAIRS)
    stock = "the same UNet with diffusers' own processors"
    explicit = "every attention written out, every step"
    found = [
        Row(f"{name}: step, cross-attention modulated / plain", ratios(times, "cross", "plain"), stock, "1"),
        Row(f"{name}: step, self-attention too / plain", ratios(times, "both", "plain"), stock),
        Row(f"{name}: run, cross-attention only / plain", run(times, "cross", "plain"), stock, "1"),
        Row(f"{name}: run, self-attention too / plain", run(times, "both", "plain"), stock),
        Row(f"{name}: run, published order / plain", run(times, "published, modulated", "published, other"), explicit),
    ]
    if not quick and name == SD15:
        peak = peaks(__file__, ("plain", "both", "published, modulated"))
        found += [
            Row(f"{name}: peak memory of the process, ours / plain", ratios(peak, "both", "plain"), stock, "1"),
            Row(
                f"{name}: peak memory of the process, published order / plain",
                ratios(peak, "published, modulated", "plain"),
                explicit,
            ),
        ]
    return found


def whole_images(quick: bool) -> list[Row]:
    generator: Any = MODELS.generator
    arrays = masks(64).numpy()
    regions = tuple(Region(phrase, 2.0, array) for phrase, array in zip(PHRASES, arrays, strict=True))
    requests = [Request(PROMPT, seed, regions) for seed in range(4)]
    options = presets.load("tiny").section("generator")

    def stock() -> list[Any]:
        return generator.pipeline(
            prompt=[PROMPT] * 4,
            latents=torch.stack([generator.initial_noise(request.noise_seed) for request in requests]),
            num_inference_steps=options["steps"],
            guidance_scale=options["guidance"],
            height=64,
            width=64,
        ).images

    for ours, theirs in zip(generator.generate(requests), stock(), strict=True):
        assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1
    times = in_turn(
        {
            "diffusers": stock,
            "cross": lambda: generator.generate(requests, CROSS_ONLY),
            "both": lambda: generator.generate(requests, BOTH),
        },
        quick=quick,
        rounds=MANY,
    )
    peer = "`StableDiffusionPipeline(prompt=...)`, 4 images of 20 steps"
    return [
        Row("embedded models: images, cross-attention only / plain", ratios(times, "cross", "diffusers"), peer, "1"),
        Row("embedded models: images, self-attention too / plain", ratios(times, "both", "diffusers"), peer),
    ]


def measure(quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    return [row for name in ([TINY] if quick else [TINY, SD15]) for row in rows(name, quick)] + whole_images(quick)


def only(way: str) -> None:
    torch.set_num_threads(1)
    steps(*load(SD15))[way]()


if __name__ == "__main__":
    main(measure, only)
