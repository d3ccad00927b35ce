"""What the vision-language models learn from: rendered scenes, spoiled a little, with their captions and foils.

Scenes come from the training split. Some are made to leak, as a generator lets a prompt's attributes leak: two things
then share a colour or a kind. No text, true or false, names a pair or a combination that is kept from training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.scenes import COLOURS, GROUNDS, RELATIONS, SHAPES, SIZE, Scene

PAD, UNKNOWN, START, IMAGE, END = "<pad>", "<unk>", "<start>", "<image>", "<end>"
ORIGIN = (
    "fresh scenes of the training split, a quarter with a leaked attribute, three quarters spoiled (bent, blurred, "
    "noisy, off-colour)"
)
GRID = 8  # patches along a side: the embedded vision towers read patches of 8x8 pixels
LABELS = (*COLOURS, *SHAPES)

_LEAK_SHARE = 0.25
_RELATION_SHARE = 0.3
_CLEAN_SHARE = 0.25
_KERNEL = 3  # half width of the blur in pixels


@dataclass(frozen=True)
class Examples:
    """A batch of n scenes.

    `pixels`: their pictures, float32 (n, 3, 64, 64) in [0, 1]; `clean`: the same before they were spoiled; `covered`:
    where a thing is, as drawn, bool (n, 64, 64).
    """

    scenes: list[Scene]
    pixels: Tensor
    clean: Tensor
    covered: Tensor

    def spoiled(self, rng: np.random.Generator) -> Examples:
        return replace(self, pixels=spoil(self.pixels, rng))


def draw(n: int, *seed: int) -> Examples:
    """Draw n training scenes and spoil their pictures; the same seed draws the same batch."""
    rng = np.random.default_rng(seed)
    drawn = [scenes.sample_scene(rng) for _ in range(n)]
    drawn = [_leak(scene, rng) if rng.random() < _LEAK_SHARE else scene for scene in drawn]
    return _examples(drawn).spoiled(rng)


def held_out(n: int, seed: int, *, count: int | None = None) -> Examples:
    """Draw n held-out scenes with clean pictures."""
    stream = scenes.scenes(seed, held_out=True, count=count)
    return _examples([next(stream) for _ in range(n)])


def spoil(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Make pictures look generated: bent outlines, soft edges, uneven grounds, shifted colours, noise.

    How strongly differs from picture to picture; a quarter stays clean.
    """
    n = len(pixels)
    random = torch.Generator().manual_seed(int(rng.integers(2**62)))
    strength = torch.rand(n, 1, 1, 1, generator=random) * (torch.rand(n, 1, 1, 1, generator=random) > _CLEAN_SHARE)

    def noise(*shape: int) -> Tensor:
        return strength * torch.randn(n, *shape, generator=random)

    shift = F.interpolate(noise(2, 6, 6) * (2.4 / SIZE), (SIZE, SIZE), mode="bicubic", align_corners=True)
    steady = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), [n, 3, SIZE, SIZE], align_corners=False)
    pixels = F.grid_sample(pixels, steady + shift.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
    pixels = _blur(pixels, 1.4 * strength.flatten())
    uneven = F.interpolate(noise(3, 6, 6), (SIZE, SIZE), mode="bicubic", align_corners=True)
    pixels = pixels * (1 + 0.07 * noise(3, 1, 1)) + 0.03 * noise(3, 1, 1) + 0.04 * uneven + 0.03 * noise(3, SIZE, SIZE)
    return pixels.clamp(0, 1)


def canonical(scene: Scene) -> str:
    """The one caption the captioner gives: colours in the order of `COLOURS`, joined without a relation.

    Unlike an order by position it has no ties that a pixel decides.
    """
    return _caption(sorted(scene.things, key=lambda thing: [LABELS.index(word) for word in thing.pair]))


def any_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A true caption in any order, for two things sometimes with a relation that holds."""
    things = [scene.things[i] for i in rng.permutation(len(scene.things))]
    relation = None
    if len(things) == 2 and rng.random() < _RELATION_SHARE:
        (a, b) = things
        holding = [name for name in RELATIONS if scenes.relation_holds(name, a.x, a.y, b.x, b.y)]
        relation = str(rng.choice(holding)) if holding else None
    return _caption(things, relation)


def foil(scene: Scene, rng: np.random.Generator) -> Scene:
    """A scene that differs by the colours of two things traded or, where that cannot be, by one other word.

    The foil of a training scene shows nothing that is held out; the foil of a held-out scene may.
    """
    allowed = _trainable if _trainable(scene) else _distinct
    trades = [traded for traded in swaps(scene) if allowed(traded)]
    if trades:
        return trades[rng.integers(len(trades))]
    while True:
        k = rng.integers(len(scene.things))
        word = str(rng.choice(LABELS))
        thing = replace(scene.things[k], **{"colour" if word in COLOURS else "shape": word})
        changed = _with(scene, {int(k): thing})
        if thing != scene.things[k] and allowed(changed):
            return changed


def swaps(scene: Scene) -> list[Scene]:
    """Every scene that differs by the colours of two things traded, but for those that name a held-out pair."""
    traded = []
    for i, j in combinations(range(len(scene.things)), 2):
        a, b = scene.things[i], scene.things[j]
        if a.colour != b.colour and a.shape != b.shape:
            traded.append(_with(scene, {i: replace(a, colour=b.colour), j: replace(b, colour=a.colour)}))
    return [s for s in traded if not scenes.HELD_OUT_PAIRS & {thing.pair for thing in s.things}]


def patch_labels(drawn: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Colour and kind of the thing over each patch, int64 (n, 64) each; the last index means none."""
    centres = (np.arange(GRID) + 0.5) * SIZE / GRID
    x, y = (axis.flatten() for axis in np.meshgrid(centres, centres))
    colours = np.full((len(drawn), GRID * GRID), len(COLOURS))
    kinds = np.full((len(drawn), GRID * GRID), len(SHAPES))
    for k, scene in enumerate(drawn):
        for thing in scene.things:
            over = (x - thing.x) ** 2 + (y - thing.y) ** 2 <= thing.radius**2
            colours[k, over] = list(COLOURS).index(thing.colour)
            kinds[k, over] = SHAPES.index(thing.shape)
    return torch.from_numpy(colours), torch.from_numpy(kinds)


def pair_table(drawn: Sequence[Scene]) -> Tensor:
    """Which pairs a scene shows: float32 (n, colours, kinds) of 0 and 1."""
    table = torch.zeros(len(drawn), len(COLOURS), len(SHAPES))
    for k, scene in enumerate(drawn):
        for thing in scene.things:
            table[k, list(COLOURS).index(thing.colour), SHAPES.index(thing.shape)] = 1
    return table


def false_negatives(rows: Sequence[Scene], columns: Sequence[Scene]) -> Tensor:
    """Where two different places of a batch show the same pairs: bool (rows, columns), False on the diagonal."""
    shown = [[frozenset(thing.pair for thing in scene.things) for scene in side] for side in (rows, columns)]
    same = torch.tensor([[a == b for b in shown[1]] for a in shown[0]])
    return same.fill_diagonal_(False)


def contrast(similarity: Tensor, same: Tensor) -> Tensor:
    """InfoNCE (van den Oord et al., 2018): row i of logits (n, m >= n) against column i, without the `same` ones."""
    return F.cross_entropy(similarity.masked_fill(same, -torch.inf), torch.arange(len(similarity)))


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the world, `<unk>` for any other; a text is framed by `<start>` and `<end>`.

    `<end>` has the highest id, because CLIP pools a text at its highest id.
    """
    tokens = [PAD, UNKNOWN, START, IMAGE, *scenes.words(), END]
    ids = {token: i for i, token in enumerate(tokens)}
    core = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(f"{START} $A {END}", None, [(t, ids[t]) for t in (START, END)])
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # no space before a comma
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        additional_special_tokens=[IMAGE],
        model_max_length=32,
        padding_side="right",
    )


def prefers_truth(score: Callable[[Tensor, list[str]], Tensor], examples: Examples, seed: int) -> list[bool]:
    """Per scene with things to trade: does `score(pixels, captions)` put the truth above a colour-swapped caption?

    Both captions name the things in the same order and are joined by "and".
    """
    rng = np.random.default_rng(seed)
    rows, true, swapped = [], [], []
    for k, scene in enumerate(examples.scenes):
        options = swaps(scene)
        if options:
            order = list(rng.permutation(len(scene.things)))
            other = options[rng.integers(len(options))]
            rows.append(k)
            true.append(_caption([scene.things[i] for i in order]))
            swapped.append(_caption([other.things[i] for i in order]))
    pixels = examples.pixels[rows]
    return (score(pixels, true) > score(pixels, swapped)).tolist()


def _examples(drawn: list[Scene]) -> Examples:
    images = np.stack([scenes.render(scene) for scene in drawn])
    grounds = np.array([GROUNDS[scene.ground] for scene in drawn])[:, None, None]
    covered = np.abs(images.astype(int) - grounds).max(-1) > 24
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return Examples(drawn, pixels, pixels, torch.from_numpy(covered))


def _caption(things: Sequence[scenes.Thing], relation: str | None = None) -> str:
    return scenes.compose([thing.phrase for thing in things], relation)


def _with(scene: Scene, changes: dict[int, scenes.Thing]) -> Scene:
    return replace(scene, things=tuple(changes.get(k, thing) for k, thing in enumerate(scene.things)), relation=None)


def _distinct(scene: Scene) -> bool:
    """No two things are alike, and none is of a held-out pair."""
    pairs = {thing.pair for thing in scene.things}
    return len(pairs) == len(scene.things) and not scenes.HELD_OUT_PAIRS & pairs


def _trainable(scene: Scene) -> bool:
    together = combinations([thing.pair for thing in scene.things], 2)
    return _distinct(scene) and not any(scenes.is_held_out(a, b) for a, b in together)


def _leak(scene: Scene, rng: np.random.Generator) -> Scene:
    """Give one thing the colour or the kind of another, if a trained combination comes of it."""
    options = []
    for i, j in permutations(range(len(scene.things)), 2):
        a, b = scene.things[i], scene.things[j]
        options += [_with(scene, {i: replace(a, colour=b.colour)}), _with(scene, {i: replace(a, shape=b.shape)})]
    options = [option for option in options if _trainable(option)]
    return options[rng.integers(len(options))] if options else scene


def _blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with one deviation per picture, in pixels."""
    n, channels = pixels.shape[:2]
    offsets = torch.arange(-_KERNEL, _KERNEL + 1)
    kernel = torch.exp(-0.5 * (offsets / sigma.clamp(min=0.1)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    flat = F.pad(pixels.reshape(1, n * channels, SIZE, SIZE), [_KERNEL] * 4, mode="replicate")
    for weight in (kernel[..., None], kernel[..., None, :]):
        flat = F.conv2d(flat, weight, groups=n * channels)
    return flat.reshape(pixels.shape)
