"""One step of the embedded UNet and one decoding, as they are, with memory in the order of channels_last, and compiled.

    python benchmarks/unet_step.py [--quick]

16 latents at once, one thread, float32. "With gradient" is forward and backward, the largest part of a step of
`realign train`. Compiled is `torch.compile` of the UNet with its defaults; what compiling itself took is told in steps
with gradient of the UNet as it is. Results must agree to 1e-4.
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


def steps(unet: Any, vae: Any = None) -> dict[str, Callable[[], Tensor]]:
    """A prediction without and with gradient, and a decoding."""
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

    ways = {"UNet, prediction": torch.no_grad()(predict), "UNet, with gradient": with_gradient}
    return ways | ({"VAE, decoding": torch.no_grad()(lambda: vae.decode(latents).sample)} if vae else {})


def measure(quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    pipeline = Models(presets.load("tiny"), "cpu").generator.pipeline
    unet, vae = pipeline.unet.requires_grad_(True), pipeline.vae
    last = (copy.deepcopy(one).to(memory_format=torch.channels_last) for one in (unet, vae))
    kinds = {"as it is": steps(unet, vae), "channels_last": steps(*last)}
    compiling = 0.0
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        if not quick:
            kinds["compiled"] = steps(torch.compile(copy.deepcopy(unet)))
            began = os.times()
            for step in kinds["compiled"].values():
                step()
            compiling = sum(os.times()[:4]) - sum(began[:4])  # with the compiler, a process of its own
        found = []
        for name, plain in kinds["as it is"].items():
            ways = {kind: own[name] for kind, own in kinds.items() if name in own}
            for step in ways.values():
                torch.testing.assert_close(step(), plain(), atol=1e-4, rtol=0)
            times = in_turn(ways, quick=quick)
            found += [
                Row(f"{name}: as it is / {kind}", ratios(times, "as it is", kind))
                for kind in ways
                if kind != "as it is"
            ]
            if compiling and name.endswith("gradient"):
                found.append(Row("compiling / a step with gradient", [compiling / min(times["as it is"])]))
    return found


if __name__ == "__main__":
    main(measure)
