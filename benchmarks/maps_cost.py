"""What it costs to record attention maps (`--maps`), in time and memory.

    python benchmarks/maps_cost.py [--quick]

A step is a call of the UNet with its conditional and unconditional half, one image, float32; recorded, it predicts the
same to the bit, which is checked before it is timed. Then whole images of the embedded models through the stage that
`realign generate` runs, with all that it writes of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from ratios import PAIRS, Row, in_turn, main, peaks, ratios
from refine_cost import FIRST, MANY, MODELS, PROMPT, SD15, TINY, load
from torch import Tensor

from realign_cli import presets
from realign_cli.data.maps import maps_bytes
from realign_cli.models.diffusion.attention_control import plain_map
from realign_cli.models.diffusion.attention_maps import RunningSums, recorded
from realign_cli.records import Record
from realign_cli.registry import Models
from realign_cli.stages.base import Item, Outcome
from realign_cli.stages.generate import Generate

MOST = 2e6  # bytes of running sums that an image may take


def steps(unet: Any, side: int, count: int) -> dict[str, Callable[[], tuple[Tensor, RunningSums]]]:
    """`count` equal steps, recorded and not; what the last of them predicts, and what was recorded."""
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, side, side, generator=draw)
    context = torch.randn(2, 77, unet.config.cross_attention_dim, generator=draw)

    @torch.no_grad()
    def call(images: list[int]) -> tuple[Tensor, RunningSums]:
        with recorded(unet, images, 1, plain_map) as sums:
            for _ in range(count):
                predicted = unet(latents, FIRST, encoder_hidden_states=context).sample
            if images:
                sums.maps(0)
        return predicted, sums

    return {"plain": lambda: call([]), "recorded": lambda: call([0])}


def rows(name: str, quick: bool) -> list[Row]:
    ways = steps(*load(name))
    (plain, nothing), (same, sums) = ways["plain"](), ways["recorded"]()
    assert torch.equal(plain, same) and not nothing.sums
    times = in_turn(ways, quick=quick, rounds=MANY if name == TINY else PAIRS)
    limit = "1.05" if name == SD15 else ""
    found = [Row(f"{name}: step, recorded / plain", ratios(times, "recorded", "plain"), "the same UNet", limit)]
    held = sum(one.numel() * one.element_size() for one in sums.sums[0].values())
    if name == SD15:
        found.append(Row(f"{name}: running sums of an image / 2 MB", [held / MOST], "2,000,000 bytes", "1"))
        if not quick:
            peak = peaks(__file__, ("plain", "recorded"))
            found.append(Row(f"{name}: peak memory, recorded / plain", ratios(peak, "recorded", "plain")))
    return found


def whole_images(quick: bool) -> list[Row]:
    models = Models(presets.load("tiny", ["generator.steps=2"]), "cpu") if quick else MODELS
    items = [Item(Record(id=str(i), text=PROMPT)) for i in range(4)]
    stages = {"plain": Generate(models), "recorded": Generate(models, map_words=[])}

    def draw(name: str) -> list[Outcome]:
        outcomes: list[Outcome] = stages[name](items)  # type: ignore[assignment]
        for outcome in outcomes:
            for picture in (outcome.image, *(one() for one in outcome.pictures.values())):
                picture.save(io.BytesIO(), "PNG")
            if outcome.maps:
                maps_bytes(outcome.maps)
        return outcomes

    for one, other in zip(draw("plain"), draw("recorded"), strict=True):
        assert np.array_equal(np.asarray(one.image), np.asarray(other.image)) and other.maps and not one.maps
    times = in_turn({name: partial(draw, name) for name in stages}, quick=quick, rounds=MANY)
    peer = "4 images of 20 steps, with what is drawn and written of them"
    return [Row("embedded models: images with maps / without", ratios(times, "recorded", "plain"), peer)]


def measure(quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    return [row for name in ([TINY] if quick else [TINY, SD15]) for row in rows(name, quick)] + whole_images(quick)


def only(way: str) -> None:
    torch.set_num_threads(1)
    steps(*load(SD15))[way]()


if __name__ == "__main__":
    main(measure, only)
