"""What the fine stage costs on Stable Diffusion XL, at its true size of 1024 x 1024.

    python benchmarks/refine_cost_xl.py [--quick]

A step as in refine_cost.py, of a U-Net of the shape of Stable Diffusion XL with random weights in float32 (10 GB): few,
because one takes minutes. `--quick` is a small U-Net of the same kinds of layers, on which the modulation is compared
with every attention written out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from ratios import Row, in_turn, main, ratios, used
from refine_cost import BOTH, check, steps
from torch import Tensor

from realign_cli.models.diffusion.architectures import ARCHITECTURES

XL, STOCK = "UNet of the size of SD XL, 1024 x 1024", "the same UNet with diffusers' own processors"
ROUNDS = 2
SMALL = {
    "block_out_channels": [8, 16, 16],
    "layers_per_block": 1,
    "transformer_layers_per_block": [1, 2, 2],
    "attention_head_dim": [1, 2, 2],
    "cross_attention_dim": 16,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 16,
    "norm_num_groups": 4,
}


def ways(quick: bool) -> dict[str, Callable[[], Tensor]]:
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(ARCHITECTURES["sdxl"]["unet"] | (SMALL if quick else {})).eval()
    with torch.no_grad():  # sharp attention: random weights would attend evenly
        for key, weight in unet.named_parameters():
            if key.endswith(("to_q.weight", "to_k.weight")):
                weight *= 3
    side = 16 if quick else 128
    sizes = torch.tensor([[8.0 * side, 8.0 * side, 0, 0, 8.0 * side, 8.0 * side]] * 2)
    pooled = torch.randn(2, 16 if quick else 1280, generator=torch.Generator().manual_seed(1))
    return steps(unet, side, 1, {"text_embeds": pooled, "time_ids": sizes})


def measure(quick: bool) -> list[Row]:
    made = ways(quick)
    if quick:
        check(made)
    times = in_turn({name: made[name] for name in ("plain", "both")}, quick=quick, rounds=ROUNDS)
    share = BOTH.step_fraction
    step = ratios(times, "both", "plain")
    run = [share * ratio + 1 - share for ratio in step]
    found = [
        Row(f"{XL}: step, cross- and self-attention modulated / plain", step, STOCK),
        Row(
            f"{XL}: run, {share:.0%} of its steps modulated / plain",
            run,
            STOCK,
            "1.2",
        ),
    ]
    if not quick:
        made.clear()  # the next processes need the memory
        plain, both = (used([sys.executable, Path(__file__), "--only", way]).megabytes for way in ("plain", "both"))
        found.append(Row(f"{XL}: peak memory of the process, ours / plain", [both / plain], STOCK, "1.2"))
    return found


def only(way: str) -> None:
    ways(quick=False)[way]()


if __name__ == "__main__":
    main(measure, only)
