"""What the methods of `generate --method` cost over plain generation, at the size of Stable Diffusion 1.x.

    python benchmarks/method_cost.py [--quick]

One image at 512 x 512, float32, a U-Net of that size with random weights. A plain step calls it with the conditional
and the unconditional half; `structure` does so with its hook, in all steps; the others update the latents before each
step of the first half of a run, with the prompt alone, as far as the layers that are read and back. Of these a plain
step and an update are timed in turn, and a run costs the step and half of the update. The refinements of
Attend-and-Excite, of which there are as many as an image needs, are left out, and so are encoding and decoding, which
all have. That a prompt without phrases is plain, bit for bit, is checked before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from ratios import PAIRS, Row, in_turn, main, ratios
from refine_cost import SD15, TIMESTEPS, TINY, load
from torch import Tensor

from realign_cli import presets
from realign_cli.equations.binding import Binding
from realign_cli.models.diffusion.latent_guidance import Guide, loss_of
from realign_cli.models.diffusion.structure import structured
from realign_cli.registry import Models
from realign_cli.roles import Conditioning
from realign_cli.settings import Attend, LatentGuidance

GUIDED = ("attend", "syngen", "predicated")
PRESETS = {TINY: "tiny", SD15: "sd15"}
LENGTH = 9  # tokens of "a red circle and a blue ring", with two to spare
BINDINGS = [Binding((3,), ((2,),)), Binding((7,), ((6,),))]
PLACES = (slice(1, 4), slice(5, 8))


def control(preset: str, method: str) -> LatentGuidance:
    """The numbers of a preset, without refinements."""
    numbers = Models(presets.load(preset, [f"generate.method={method}"]), "cpu").phrase_control
    assert isinstance(numbers, LatentGuidance)
    return replace(numbers, thresholds=()) if isinstance(numbers, Attend) else numbers


def steps(name: str) -> dict[str, Callable[[], Tensor]]:
    """A plain step, one of `structure`, and an update of each other method; each gives latents or a prediction."""
    unet, side, count = load(name)
    unet.requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, side, side, generator=draw)
    prompts = torch.randn(1, 77, unet.config.cross_attention_dim, generator=draw)
    both = torch.cat([torch.randn(prompts.shape, generator=draw), prompts])
    alone = [(torch.randn(prompts.shape[1:], generator=draw), place) for place in PLACES]

    @torch.no_grad()
    def step() -> Tensor:
        for _ in range(count):
            predicted = unet(latents.repeat(2, 1, 1, 1), TIMESTEPS[0], encoder_hidden_states=both).sample
        return predicted

    def structure(phrases: list[tuple[Tensor, slice]]) -> Tensor:
        with structured(unet, prompts, [phrases], "default"):
            return step()

    def update(method: str, bindings: list[Binding]) -> Tensor:
        numbers = control(PRESETS[name], method)
        guide = Guide(unet, Conditioning(prompts), [loss_of(numbers, bindings, LENGTH)], numbers, TIMESTEPS)
        for i in range(count):
            moved = guide(latents, i)
        return moved

    assert torch.equal(structure([]), step()) and not torch.equal(structure(alone), step())
    for method in GUIDED:
        assert torch.equal(update(method, []), latents) and not torch.equal(update(method, BINDINGS), latents)
    return {
        "plain": step,
        "structure": lambda: structure(alone),
        **{method: lambda method=method: update(method, BINDINGS) for method in GUIDED},  # type: ignore[misc]
    }


def measure(quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    name = TINY if quick else SD15
    times = in_turn(steps(name), quick=quick, rounds=PAIRS)
    peer = "the same UNet with diffusers' own processors"
    rows = [Row(f"{name}: run, structure / plain", ratios(times, "structure", "plain"), peer, "1.05")]
    for method in GUIDED:
        share = control(PRESETS[name], method).step_fraction
        runs = [1 + share * ratio for ratio in ratios(times, method, "plain")]
        rows.append(Row(f"{name}: run, {method} / plain", runs, peer, "1.4"))
    return rows


if __name__ == "__main__":
    main(measure)
