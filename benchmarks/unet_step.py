"""One step of the embedded UNet, as it is, with its memory in the order of channels_last, and compiled.

    python benchmarks/unet_step.py [--quick]

16 latents at once, one thread, float32. "With gradient" is forward and backward, the largest part of a step of
`realign train`. Compiled is `torch.compile` with its defaults; what compiling itself took is told in steps with
gradient of the UNet as it is. Predictions must agree to 1e-4.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from ratios import Row, in_turn, main, ratios
from torch import Tensor

from realign_cli import presets
from realign_cli.registry import Models

BATCH = 16


def steps(unet: Any) -> dict[str, Callable[[], Tensor]]:
    """A prediction without and with gradient."""
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(BATCH, 4, 16, 16, generator=draw)
    context = torch.randn(BATCH, 77, unet.config.cross_attention_dim, generator=draw)
    timestep = torch.tensor(500)

    def predict() -> Tensor:
        return unet(latents, timestep, encoder_hidden_states=context).sample

    def with_gradient() -> Tensor:
        for weight in unet.parameters():
            weight.grad = None
        predicted = predict()
        predicted.square().mean().backward()
        return predicted.detach()

    return {"prediction": torch.no_grad()(predict), "with gradient": with_gradient}


def measure(quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    unet = Models(presets.load("tiny"), "cpu").generator.pipeline.unet.requires_grad_(True)
    kinds = {"as it is": unet, "channels_last": copy.deepcopy(unet).to(memory_format=torch.channels_last)}
    ways = {kind: steps(one) for kind, one in kinds.items()}
    compiling = 0.0
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        if not quick:
            kinds["compiled"] = torch.compile(copy.deepcopy(unet))
            ways["compiled"] = steps(kinds["compiled"])
            began = os.times()
            for step in ways["compiled"].values():
                step()
            compiling = sum(os.times()[:4]) - sum(began[:4])  # with the compiler, a process of its own
    for way in ways.values():
        for name, step in way.items():
            torch.testing.assert_close(step(), ways["as it is"][name](), atol=1e-4, rtol=0)
    found = []
    for name in ("prediction", "with gradient"):
        times = in_turn({kind: way[name] for kind, way in ways.items()}, quick=quick)
        others = [kind for kind in kinds if kind != "as it is"]
        found += [Row(f"UNet, {name}: as it is / {kind}", ratios(times, "as it is", kind)) for kind in others]
    if not quick:
        found.append(Row("compiling / a step with gradient", [compiling / min(times["as it is"])]))
    return found


if __name__ == "__main__":
    main(measure)
