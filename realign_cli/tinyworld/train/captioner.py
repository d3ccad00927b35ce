"""`Blip2ForConditionalGeneration`: it describes a picture with its canonical caption, which names all that is seen.

The vision tower is trained alone first, on what each patch shows, because captions alone are too weak a signal for it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    Blip2VisionModel,
    OPTConfig,
)

from realign_cli.models.pixels import pixels_to_input
from realign_cli.models.vision_language.blip2 import Blip2Captioner, caption_targets
from realign_cli.tinyworld.scenes import COLOURS, SIZE
from realign_cli.tinyworld.train import examples
from realign_cli.tinyworld.train.fit import fit
from realign_cli.tinyworld.train.measures import prefers_truth
from realign_cli.tinyworld.train.pictures import FAULTY, Pictures, draw_faults, draw_faulty, draw_held_out, draw_leaky
from realign_cli.tinyworld.train.publish import model_card, percentage, publish
from realign_cli.tinyworld.train.tokenizers import IMAGE, word_tokenizer

_VISION_STEPS, _VISION_BATCH = 3000, 32
_STEPS, _BATCH = 2600, 48
_VISION_FAULTY = 0.9  # share of crowded scenes with faults, from which a tower learns most
_WIDTH = 128
_INITIALSTD = 0.08  # of the initial weights; with the usual 0.02, made for wide models, narrow layers pass on little
_CANONICAL_SHARE = 0.7  # the other captions come in any order, so that prompts in any order stay likely
_REPLACED_SHARE = 0.1  # share of input words replaced, so that the next word must come from the picture


def vision_config() -> Blip2VisionConfig:
    return Blip2VisionConfig(
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=SIZE // examples.GRID,
        initializer_range=_INITIALSTD,
    )


def qformer_config(vocabulary: int) -> Blip2QFormerConfig:
    return Blip2QFormerConfig(
        vocab_size=vocabulary,
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        cross_attention_frequency=1,
        initializer_range=_INITIALSTD,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def build() -> Blip2ForConditionalGeneration:
    words = word_tokenizer(examples.caption_words())
    text = OPTConfig(
        vocab_size=len(words),
        hidden_size=_WIDTH,
        word_embed_proj_dim=_WIDTH,
        ffn_dim=2 * _WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        dropout=0.0,
        init_std=_INITIALSTD,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    config = Blip2Config(
        vision_config=vision_config(),
        qformer_config=qformer_config(len(words)),
        text_config=text,
        initializer_range=_INITIALSTD,
        num_query_tokens=len(COLOURS),
        image_token_index=words.convert_tokens_to_ids(IMAGE),
    )
    model = Blip2ForConditionalGeneration(config)
    nn.init.normal_(model.query_tokens, std=0.5)  # all queries would start alike at zero, and stay alike for long
    places = model.vision_model.embeddings.position_embedding
    with torch.no_grad():
        places[:, 1:] = 0.5 * _waves(examples.GRID, _WIDTH)
    return model


def _waves(grid: int, width: int) -> Tensor:
    """Sines and cosines of row and column, (grid * grid, width), so that neighbouring patches start alike."""
    frequency = 1.5 * torch.logspace(0, -1.5, width // 4)
    angle = torch.arange(grid)[:, None] * frequency
    wave = torch.cat([angle.sin(), angle.cos()], 1)
    return torch.cat([wave[:, None].expand(-1, grid, -1), wave[None].expand(grid, -1, -1)], -1).flatten(0, 1)


class PatchHead(nn.Module):
    """A throw-away head that names and counts what each patch shows: a dense training signal for a vision tower."""

    CLASSES = (len(COLOURS) + 1, len(examples.KINDS) + 1, examples.MOST + 1)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, sum(self.CLASSES))

    def loss(self, patches: Tensor, drawn: Pictures) -> Tensor:
        """Cross-entropy of colour, kind and number from patch states (B, 64, C)."""
        logits = self.head(patches).split(self.CLASSES, -1)
        return sum(F.cross_entropy(x.flatten(0, 1), y.flatten()) for x, y in zip(logits, _labels(drawn), strict=True))


def _labels(drawn: Pictures) -> tuple[Tensor, Tensor, Tensor]:
    """What each patch shows most of, int64 (n, 64) each: its colour, its kind, and how many things are alike.

    Where nothing covers a tenth of a patch, colour and kind are one more than the last, and the number is 0.
    """
    none = torch.tensor([len(COLOURS), len(examples.KINDS), 0])
    labels = none.repeat(len(drawn.scenes), examples.GRID**2, 1)
    for rows, scene, shares, counts in zip(
        labels, drawn.scenes, drawn.shares, examples.count_table(drawn.scenes), strict=True
    ):
        names = [(list(COLOURS).index(thing.colour), examples.KINDS.index(thing.shape)) for thing in scene.things]
        own = torch.tensor([(colour, kind, counts[colour, kind]) for colour, kind in names])
        covered, thing = F.avg_pool2d(shares, SIZE // examples.GRID).flatten(1).max(0)
        rows[covered > 0.1] = own[thing[covered > 0.1]]
    return labels[..., 0], labels[..., 1], labels[..., 2]


class _VisionTraining(nn.Module):
    """The vision tower with throw-away heads: outlines after the first layer, colour and kind after the last."""

    def __init__(self, tower: Blip2VisionModel) -> None:
        super().__init__()
        self.tower = tower
        self.covered = nn.Linear(_WIDTH, (SIZE // examples.GRID) ** 2)
        self.patches = PatchHead(_WIDTH)

    def loss(self, drawn: Pictures) -> Tensor:
        out = self.tower(pixels_to_input(drawn.pixels, SIZE), output_hidden_states=True)
        side = SIZE // examples.GRID
        covered = torch.stack([share.sum(0, keepdim=True).clamp(0, 1) for share in drawn.shares])
        covered = F.unfold(covered, side, stride=side).transpose(1, 2)
        outlines = F.binary_cross_entropy_with_logits(self.covered(out.hidden_states[1][:, 1:]), covered)
        return self.patches.loss(out.last_hidden_state[:, 1:], drawn) + 2 * outlines


class _CaptionTraining(nn.Module):
    """The captioner with throw-away heads: patches name what they show, query k counts the kinds of colour k."""

    def __init__(self, captioner: Blip2ForConditionalGeneration) -> None:
        super().__init__()
        self.captioner = captioner
        self.patches = PatchHead(_WIDTH)
        self.counts = nn.Linear(_WIDTH, len(examples.KINDS) * (examples.MOST + 1))

    def loss(self, drawn: Pictures, targets: dict[str, Tensor]) -> Tensor:
        out = self.captioner(pixel_values=pixels_to_input(drawn.pixels, SIZE), **targets)
        counts = self.counts(out.qformer_outputs.last_hidden_state).view(-1, examples.MOST + 1)
        queries = F.cross_entropy(counts, examples.count_table(drawn.scenes).flatten())
        return out.loss + 0.5 * self.patches.loss(out.vision_outputs.last_hidden_state[:, 1:], drawn) + 5 * queries


def main(work: Path) -> None:
    torch.manual_seed(0)
    captioner, words = build(), word_tokenizer(examples.caption_words())
    vision, training = _VisionTraining(captioner.vision_model), _CaptionTraining(captioner)

    def vision_loss(step: int, rank: int) -> Tensor:
        return vision.loss(draw_faulty(_VISION_BATCH, np.random.default_rng([step, rank, 22]), share=_VISION_FAULTY))

    def loss(step: int, rank: int) -> Tensor:
        rng = np.random.default_rng([step, rank, 21])
        drawn = draw_faulty(_BATCH, np.random.default_rng([step, rank, 20]))
        captions = [
            examples.canonical(s) if rng.random() < _CANONICAL_SHARE else examples.any_caption(s, rng)
            for s in drawn.scenes
        ]
        targets = caption_targets(words, training.captioner.config, captions)
        _replace_words(targets, rng)
        return training.loss(drawn, targets)

    minutes = [
        fit(vision, vision_loss, steps=_VISION_STEPS, learning_rate=2e-3, work=work / "vision", last=False),
        fit(training, loss, steps=_STEPS, learning_rate=1e-3, work=work / "captions", ema=0.998),
    ]
    folder = work / "model"
    training.captioner.half().save_pretrained(folder)
    words.save_pretrained(folder)
    card = model_card(
        model="Blip2ForConditionalGeneration",
        parameters=training.captioner.num_parameters(),
        trained_on=f"{_VISION_STEPS * _VISION_BATCH} (vision tower alone; {_VISION_FAULTY:.0%} crowded, with faults) "
        f"and {_STEPS * _BATCH} {FAULTY}, with true captions",
        notes={
            "captions": f"{_CANONICAL_SHARE:.0%} canonical: things in the order of the palette (red, green, blue, "
            "yellow, purple, orange, cyan, pink), joined by commas and 'and', no relation, things that are alike "
            "counted ('two red squares'), what has no known kind called a 'thing'; the others in any order, some with "
            "a relation",
            "extra losses": "colour, kind and number of what every patch shows; alone, also its outline after one "
            "layer; with captions, also query k: the number of things of each kind with colour k (throw-away heads)",
        },
        steps=f"{_VISION_STEPS} and {_STEPS}",
        minutes=" and ".join(f"{one:.0f}" for one in minutes),
        quality=measure(folder),
    )
    publish("captioner", folder, card)


def measure(folder: Path) -> dict[str, str]:
    """Measure the model on held-out scenes through its adapter, for the card."""
    captioner = Blip2Captioner(folder, device="cpu")
    card = {}
    for count in (1, 2, 3):
        right = _exact(captioner, draw_held_out(300, 5, count=count))
        card[f"caption exactly right, {count} things"] = percentage(right)
    drawn = draw_held_out(1000, 6)
    spoiled = drawn.spoiled(np.random.default_rng(7))
    card["caption exactly right"] = percentage(_exact(captioner, drawn))
    card["caption exactly right, spoiled pictures"] = percentage(_exact(captioner, spoiled))
    leaking = draw_leaky(1000, np.random.default_rng(8))
    card["caption exactly right, training scenes, spoiled"] = percentage(_exact(captioner, leaking))
    for name, held_out in (("held-out scenes", True), ("training scenes", False)):
        faulty = draw_faults(1000, np.random.default_rng(10), held_out=held_out).spoiled(np.random.default_rng(11))
        card[f"caption exactly right, {name} with faults, spoiled"] = percentage(_exact(captioner, faulty))
        noticed = _noticed(captioner, faulty)
        card[f"caption counts or says 'thing' where it should, {name} with faults, spoiled"] = percentage(noticed)

    def likelihood(pixels: Tensor, captions: list[str]) -> Tensor:
        return log_likelihood(captioner, pixels, captions)

    card["true caption likelier than colour-swapped, any order"] = percentage(prefers_truth(likelihood, drawn, 9))
    card["the same, spoiled pictures"] = percentage(prefers_truth(likelihood, spoiled, 9))
    return card


@torch.no_grad()
def log_likelihood(captioner: Blip2Captioner, pixels: Tensor, captions: list[str]) -> Tensor:
    """Summed log-probability (B,) of each caption for its picture."""
    targets = caption_targets(captioner.tokenizer, captioner.model.config, captions)
    labels = targets.pop("labels")[:, 1:]
    logits = captioner.model(pixel_values=pixels_to_input(pixels, SIZE), **targets).logits[:, :-1]
    steps = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (steps * (labels >= 0)).sum(1)


def _noticed(captioner: Blip2Captioner, drawn: Pictures) -> list[bool]:
    """Of each scene with things that are alike or malformed, whether its caption counts or names some such thing."""
    scenes = [k for k, scene in enumerate(drawn.scenes) if _odd(examples.canonical(scene))]
    return [_odd(caption) for caption in captioner.caption([to_pil_image(drawn.pixels[k]) for k in scenes])]


def _odd(caption: str) -> bool:
    return not {*examples.NUMBERS, examples.MALFORMED}.isdisjoint(caption.split())


def _exact(captioner: Blip2Captioner, drawn: Pictures) -> list[bool]:
    captions = captioner.caption([to_pil_image(pixels) for pixels in drawn.pixels])
    return [caption == examples.canonical(scene) for caption, scene in zip(captions, drawn.scenes, strict=True)]


def _replace_words(targets: dict[str, Tensor], rng: np.random.Generator) -> None:
    """Replace some of the input words in place; the words to be predicted stay as they are."""
    ids, labels = targets["input_ids"], targets["labels"]
    vocabulary = torch.from_numpy(rng.integers(4, int(ids.max()), size=ids.shape))
    wrong = torch.from_numpy(rng.random(ids.shape) < _REPLACED_SHARE) & (labels >= 0)
    targets["input_ids"] = torch.where(wrong, vocabulary, ids)
