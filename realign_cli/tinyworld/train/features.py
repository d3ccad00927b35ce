"""`SceneNet`, the features of the tiny world's Fréchet distance: what is shown, where, and how clean the picture is.

Labels of whole pictures are too weak a signal, and what is learned from them does not generalise to new combinations.
So each cell learns what lies over it. A net that is trained on spoiled pictures learns to ignore the damage, so it also
learns to predict how much there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from realign_cli.models.pixels import pixels_to_input
from realign_cli.tinyworld.scene_net import PAIRS, SIZE, WEIGHTS, WIDTH, SceneNet, anywhere
from realign_cli.tinyworld.scenes import COLOURS, GROUNDS, SHAPES, Scene
from realign_cli.tinyworld.train import examples
from realign_cli.tinyworld.train.fit import fit
from realign_cli.tinyworld.train.pictures import LEAKY, Pictures, draw_held_out, draw_leaky, render
from realign_cli.tinyworld.train.publish import model_card, percentage, publish

_STEPS = 2000
_BATCH = 64


def main(work: Path) -> None:
    torch.manual_seed(0)
    net = SceneNet()
    minutes = fit(
        net,
        lambda step, rank: _loss(net, draw_leaky(_BATCH, np.random.default_rng([step, rank, 60]))),
        steps=_STEPS,
        learning_rate=2e-3,
        work=work,
        ema=0.998,
    )
    net.half().float()  # the precision of the packaged weights
    folder = work / "model"
    folder.mkdir(exist_ok=True)
    save_file({key: tensor.half() for key, tensor in net.state_dict().items()}, folder / WEIGHTS)
    card = model_card(
        model=f"SceneNet, five convolutions and two linear layers; {WIDTH} features",
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        trained_on=f"{_STEPS * _BATCH} {LEAKY}",
        notes={"losses": "pair over each cell, pairs shown anywhere, number, ground, damage"},
        steps=str(_STEPS),
        minutes=f"{minutes:.1f}",
        quality=measure(net),
    )
    publish("features", folder, card)


def _loss(net: SceneNet, drawn: Pictures) -> Tensor:
    cells, counts, grounds, damage = net(pixels_to_input(drawn.pixels, SIZE))
    shown = anywhere(cells).clamp(1e-4, 1 - 1e-4)
    return (
        2 * F.cross_entropy(cells.flatten(2), _cells(drawn.scenes))
        + 10 * F.binary_cross_entropy(shown, examples.pair_table(drawn.scenes).flatten(1))
        + F.cross_entropy(counts, _counts(drawn.scenes))
        + F.cross_entropy(grounds, _grounds(drawn.scenes))
        + F.mse_loss(damage, _damage(drawn))
    )


@torch.no_grad()
def measure(net: SceneNet) -> dict[str, str]:
    """Measure the net on held-out scenes, for the card."""
    drawn = draw_held_out(1000, 6)
    answers = net(pixels_to_input(drawn.pixels, SIZE))
    table = examples.pair_table(drawn.scenes).flatten(1) > 0
    shown = anywhere(answers.cells) > 0.5
    return {
        "all pairs right": percentage((shown == table).all(1).tolist()),
        "number right": percentage((answers.counts.argmax(1) == _counts(drawn.scenes)).tolist()),
        "ground right": percentage((answers.grounds.argmax(1) == _grounds(drawn.scenes)).tolist()),
    }


def _cells(scenes: Sequence[Scene]) -> Tensor:
    """The pair over each cell, int64 (n, 64); `PAIRS` where there is none."""
    colours, kinds = examples.patch_labels(scenes)
    return torch.where(colours < len(COLOURS), colours * len(SHAPES) + kinds, PAIRS)


def _counts(scenes: Sequence[Scene]) -> Tensor:
    return torch.tensor([len(scene.things) - 1 for scene in scenes])


def _grounds(scenes: Sequence[Scene]) -> Tensor:
    return torch.tensor([list(GROUNDS).index(scene.ground) for scene in scenes])


def _damage(drawn: Pictures) -> Tensor:
    """How far pictures are from clean ones: (n,), 0 for a clean picture, about 2 for a badly spoiled one."""
    return (80 * (drawn.pixels - render(drawn.scenes).pixels).abs().mean((1, 2, 3))).sqrt()
