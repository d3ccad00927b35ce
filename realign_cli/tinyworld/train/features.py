"""`SceneNet`, the features of the tiny world's Frechet distance: colours, kinds, their number, places and ground."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from realign_cli.models.blip2 import pixels_to_input
from realign_cli.models.features import SIZE, WEIGHTS, WIDTH, SceneFeatures, SceneNet
from realign_cli.tinyworld.scenes import COLOURS, GROUNDS, SHAPES, Scene
from realign_cli.tinyworld.train import examples
from realign_cli.tinyworld.train.examples import Examples
from realign_cli.tinyworld.train.fit import fit
from realign_cli.tinyworld.train.publish import publish

_STEPS = 800
_BATCH = 64
_PAIRS, _COUNTS = len(COLOURS) * len(SHAPES), 3


class _Lesson(nn.Module):
    """The net with throw-away heads."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SceneNet()
        self.heads = nn.Linear(WIDTH, _PAIRS + _COUNTS + len(GROUNDS) + 2 * len(COLOURS))

    def read(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of pairs, number and ground, and per colour a place (x, y) in [0, 1]."""
        pairs, counts, grounds, places = self.heads(F.gelu(features)).split(
            [_PAIRS, _COUNTS, len(GROUNDS), 2 * len(COLOURS)], 1
        )
        return pairs, counts, grounds, places.unflatten(1, (len(COLOURS), 2))

    def loss(self, drawn: Examples) -> Tensor:
        pairs, counts, grounds, places = self.read(self.net(pixels_to_input(drawn.pixels, SIZE)))
        there, where = _places(drawn.scenes)
        return (
            5 * F.binary_cross_entropy_with_logits(pairs, examples.pair_table(drawn.scenes).flatten(1))
            + F.cross_entropy(counts, _counts(drawn.scenes))
            + F.cross_entropy(grounds, torch.tensor([list(GROUNDS).index(s.ground) for s in drawn.scenes]))
            + 10 * F.mse_loss(places[there], where[there])
        )


def main(work: Path) -> None:
    torch.manual_seed(0)
    lesson = _Lesson()
    fit(
        lesson,
        lambda step, rank: lesson.loss(examples.draw(_BATCH, step, rank, 60)),
        steps=_STEPS,
        learning_rate=2e-3,
        work=work,
        ema=0.998,
    )

    def save(folder: Path) -> None:
        save_file({key: tensor.half() for key, tensor in lesson.net.state_dict().items()}, folder / WEIGHTS)

    save(work)
    parameters = sum(parameter.numel() for parameter in lesson.net.parameters())
    card = {
        "model": f"SceneNet, four convolutions and a linear layer; {WIDTH} features, {parameters / 1e6:.2f} M weights",
        "trained_on": f"{_STEPS * _BATCH} fresh scenes of the training split, three quarters spoiled (bent, blurred, "
        "noisy, off-colour)",
        "losses": "pairs shown, number, ground, place of each colour, read from the features by a throw-away layer",
        "steps": _STEPS,
        "minutes": f"{examples.minutes(work, _STEPS)} (one thread of a busy two-core machine)",
        **measure(work, lesson),
    }
    publish("features", save, card)


@torch.no_grad()
def measure(folder: Path, lesson: _Lesson) -> dict[str, str]:
    """What the throw-away layer reads from the packaged features of held-out scenes."""
    drawn = examples.held_out(1000, 6)
    pictures = [to_pil_image(picture) for picture in drawn.pixels]
    features = torch.from_numpy(SceneFeatures(folder, device="cpu").features(pictures)).float()
    pairs, counts, grounds, places = lesson.read(features)
    there, where = _places(drawn.scenes)
    wanted = [list(GROUNDS).index(scene.ground) for scene in drawn.scenes]
    exact = ((pairs > 0) == (examples.pair_table(drawn.scenes).flatten(1) > 0)).all(1)
    error = (places[there] - where[there]).mul(SIZE).norm(dim=1).mean()
    return {
        "all pairs right": examples.share(exact.tolist()),
        "number right": examples.share((counts.argmax(1) == _counts(drawn.scenes)).tolist()),
        "ground right": examples.share((grounds.argmax(1) == torch.tensor(wanted)).tolist()),
        "mean error of a centre": f"{error:.1f} pixels (n = {int(there.sum())})",
    }


def _counts(scenes: Sequence[Scene]) -> Tensor:
    return torch.tensor([len(scene.things) - 1 for scene in scenes])


def _places(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Which colours are there, bool (n, colours), and their mean centres, float32 (n, colours, 2) in [0, 1]."""
    there, where = torch.zeros(len(scenes), len(COLOURS), dtype=torch.bool), torch.zeros(len(scenes), len(COLOURS), 2)
    for k, scene in enumerate(scenes):
        for thing in scene.things:
            colour = list(COLOURS).index(thing.colour)
            alike = [(other.x, other.y) for other in scene.things if other.colour == thing.colour]
            there[k, colour] = True
            where[k, colour] = torch.tensor(alike).mean(0) / SIZE
    return there, where
