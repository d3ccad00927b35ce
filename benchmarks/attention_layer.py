"""One modulated self-attention layer of Stable Diffusion 1.x at 512 x 512: ours, plain fused, and written out.

    python benchmarks/attention_layer.py [--quick]

4,096 pixels, 8 heads of width 40, float32, one image, two overlapping objects that cover 38 % of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from ratios import Row, in_turn, main, ratios
from torch import Tensor

from realign_cli.equations import attention as eq

HEADS, WIDTH, STRENGTH = 8, 40, 0.27  # the first step, with w of self-attention 0.3


def masks(side: int) -> Tensor:
    """Two overlapping objects, bool (2, side, side)."""
    masks = torch.zeros(2, side, side, dtype=torch.bool)
    masks[0, side // 8 : side * 5 // 8, side // 8 : side // 2] = True
    masks[1, side // 2 : side * 7 // 8, side * 3 // 8 : side * 15 // 16] = True
    return masks


def layer(side: int) -> tuple[tuple[Tensor, Tensor, Tensor], eq.Segments, Tensor]:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(HEADS, side * side, WIDTH, generator=draw) for _ in range(3))
    where = eq.segments(masks(side).flatten(1))
    return (query, key, value), where, eq.modulation_weight(STRENGTH, where.area, clamp=True)


def measure(quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    inputs, where, weight = layer(16 if quick else 64)
    match = where.same @ where.onehot.T > 0
    ways = {
        "plain": lambda: F.scaled_dot_product_attention(*(x[None] for x in inputs))[0],
        "ours": lambda: eq.folded_self_attention(*inputs, where, weight),
        "written out": lambda: eq.modulated_attention(*inputs, match, weight[:, None]),
        "range": lambda: eq.row_range(inputs[0][:, weight > 0], inputs[1]),
    }
    torch.testing.assert_close(ways["ours"](), ways["written out"](), atol=1e-5, rtol=0)
    times = in_turn(ways, quick=quick)
    covered = (weight > 0).float().mean().item()
    return [
        Row(
            f"modulated / plain fused self-attention, {covered:.0%} of the image in masks",
            ratios(times, "ours", "plain"),
            "`torch.nn.functional.scaled_dot_product_attention`",
            f"{1 + covered / 2:.2f}: QK^T once more for the queries in masks",
        ),
        Row("of it, the pass for the range of each row / plain fused", ratios(times, "range", "plain")),
        Row(
            "modulated with the N x N matrix written out / modulated, ours",
            ratios(times, "written out", "ours"),
            "`equations.attention.modulated_attention`, equal to 1e-5",
        ),
    ]


if __name__ == "__main__":
    main(measure)
