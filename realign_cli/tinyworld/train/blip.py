"""`Blip2ForImageTextRetrieval`: contrast, matching and the text encoder of Eq. 4 in one model.

As in BLIP-2 the vision tower is frozen. It is a copy of the captioner's, and the image side of the Q-Former starts from
the captioner's as well: train `captioner` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval

from realign_cli.models.pixels import pixels_to_input
from realign_cli.models.vision_language.blip2 import (
    Blip2Metric,
    Blip2TextEncoder,
    match_logits,
    query_embeddings,
    text_embeddings,
    tokenize,
)
from realign_cli.tinyworld.scenes import COLOURS, SIZE, Scene
from realign_cli.tinyworld.train import examples
from realign_cli.tinyworld.train.captioner import qformer_config, vision_config
from realign_cli.tinyworld.train.fit import fit
from realign_cli.tinyworld.train.measures import prefers_truth
from realign_cli.tinyworld.train.pictures import FAULTY, Pictures, draw_faulty, draw_held_out
from realign_cli.tinyworld.train.publish import WEIGHTS, model_card, percentage, publish
from realign_cli.tinyworld.train.tokenizers import IMAGE, word_tokenizer

_STEPS = 4000
_BATCH = 64
_TEMPERATURE = 0.1  # high, so that different texts end up far apart: the reward is the cosine between them
_FOIL_SHARE = 0.7  # share of foils among the texts that do not match; the rest describe other scenes of the batch


def build() -> Blip2ForImageTextRetrieval:
    words = word_tokenizer(examples.caption_words())
    qformer = qformer_config(len(words))
    qformer.use_qformer_text_input = True
    config = Blip2Config(
        vision_config=vision_config(),
        qformer_config=qformer,
        num_query_tokens=len(COLOURS),
        image_text_hidden_size=64,
        image_token_index=words.convert_tokens_to_ids(IMAGE),
    )
    model = Blip2ForImageTextRetrieval(config)
    captioner = Blip2ForConditionalGeneration.from_pretrained(WEIGHTS / "captioner", dtype=torch.float32).state_dict()
    model.load_state_dict({k: v for k, v in captioner.items() if k in model.state_dict()}, strict=False)
    model.vision_model.requires_grad_(False)
    return model


class _BlipTraining(nn.Module):
    """The model and its losses: three contrasts (text-text, image-text, text-image) and matching, on one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.blip = build()
        self.words = word_tokenizer(examples.caption_words())

    def loss(self, drawn: Pictures, rng: np.random.Generator) -> Tensor:
        scenes = drawn.scenes
        foils = [_foil(scene, rng) for scene in scenes] + [examples.miscount(scene, rng) for scene in scenes]
        texts, others, wrong = ([examples.any_caption(s, rng) for s in group] for group in (scenes, scenes, foils))
        with torch.no_grad():
            patches = self.blip.vision_model(pixels_to_input(drawn.pixels, SIZE)).last_hidden_state
        true, again, false = (self._embed(group) for group in (texts, others, wrong))
        similarity = torch.einsum("iqd,td->itq", query_embeddings(self.blip, patches), torch.cat([true, false])).amax(2)
        within = examples.false_negatives(scenes, scenes)
        both = torch.cat([within, examples.false_negatives(scenes, foils)], 1)
        contrasts = [
            examples.info_nce(true @ torch.cat([again, false]).T / _TEMPERATURE, both),
            examples.info_nce(similarity / _TEMPERATURE, both),
            examples.info_nce(similarity[:, : len(scenes)].T / _TEMPERATURE, within),
        ]
        return sum(contrasts) + self._matching(patches, texts, wrong, within, rng)

    def _embed(self, texts: Sequence[str]) -> Tensor:
        return text_embeddings(self.blip, tokenize(self.words, texts))

    def _matching(
        self, patches: Tensor, texts: list[str], wrong: list[str], same: Tensor, rng: np.random.Generator
    ) -> Tensor:
        """Half of the pairs match; in the other half the text is one of two foils or describes another scene."""
        n = len(texts)
        shift = int(rng.integers(1, n))
        negatives = [
            wrong[i + n * rng.integers(2)]
            if rng.random() < _FOIL_SHARE or same[i, (i + shift) % n]
            else texts[(i + shift) % n]
            for i in range(n)
        ]
        logits = match_logits(self.blip, patches.repeat(2, 1, 1), tokenize(self.words, [*texts, *negatives]))
        return F.cross_entropy(logits, torch.tensor([1] * n + [0] * n))


def _foil(scene: Scene, rng: np.random.Generator) -> Scene:
    return examples.foil(scene, rng) if examples.ordinary(scene) else examples.miscount(scene, rng)


def main(work: Path) -> None:
    torch.manual_seed(0)
    training = _BlipTraining()

    def loss(step: int, rank: int) -> Tensor:
        drawn = draw_faulty(_BATCH, np.random.default_rng([step, rank, 30]))
        return training.loss(drawn, np.random.default_rng([step, rank, 31]))

    minutes = fit(training, loss, steps=_STEPS, learning_rate=1e-3, work=work, ema=0.998)
    folder = work / "model"
    training.blip.half().save_pretrained(folder)
    training.words.save_pretrained(folder)
    card = model_card(
        model="Blip2ForImageTextRetrieval",
        parameters=training.blip.num_parameters(),
        trained_on=f"{_STEPS * _BATCH} {FAULTY}, with true captions in any order, some with a relation, and "
        "two foils each (one with colours traded or one word changed; one with a thing more or less, or malformed). "
        "Wrong relations were no foils",
        notes={
            "started from": "the captioner's vision tower, which stays frozen, and the image side of its Q-Former",
            "losses": f"text-text, image-text and text-image contrast at temperature {_TEMPERATURE}; matching",
        },
        steps=str(_STEPS),
        minutes=f"{minutes:.1f}",
        quality=measure(folder),
    )
    publish("blip", folder, card)


def measure(folder: Path) -> dict[str, str]:
    """Measure the model on held-out scenes through its adapters, for the card."""
    judge, encoder = Blip2Metric(folder, device="cpu"), Blip2TextEncoder(folder, device="cpu")
    drawn = draw_held_out(1000, 6)
    spoiled = drawn.spoiled(np.random.default_rng(7))
    card = {}
    for name, seen in (("clean", drawn), ("spoiled", spoiled)):
        for column in ("blip_itc", "blip_itm"):
            right = prefers_truth(lambda pixels, texts, c=column: _judge(judge, pixels, texts)[c], seen, 9)
            card[f"{column}: true caption above colour-swapped, {name} pictures"] = percentage(right)
        rng = np.random.default_rng(11)
        true = _judge(judge, seen.pixels, [examples.any_caption(s, rng) for s in seen.scenes])["blip_itm"]
        false = _judge(judge, seen.pixels, [examples.any_caption(examples.foil(s, rng), rng) for s in seen.scenes])
        card[f"blip_itm: true caption above 0.5, {name} pictures"] = percentage((true > 0.5).tolist())
        card[f"blip_itm: foil below 0.5, {name} pictures"] = percentage((false["blip_itm"] < 0.5).tolist())
    return card | _cosines(encoder, [scene for scene in drawn.scenes if len(scene.things) > 1])


def _judge(judge: Blip2Metric, pixels: Tensor, texts: list[str]) -> dict[str, Tensor]:
    columns = judge.measure([to_pil_image(picture) for picture in pixels], texts)
    return {column: torch.tensor(values) for column, values in columns.items()}


def _cosines(encoder: Blip2TextEncoder, scenes: list[Scene]) -> dict[str, str]:
    """Cosines between f_enc (Eq. 4) of texts about two or three things: the mean, and the quantile of the worst 5 %."""
    rng = np.random.default_rng(12)
    texts = [examples.any_caption(scene, rng) for scene in scenes]
    swapped = [(i, options[rng.integers(len(options))]) for i, s in enumerate(scenes) if (options := examples.swaps(s))]
    dropped = [Scene(scene.things[1:], scene.ground) for scene in scenes]
    base = encoder.encode(texts)
    groups = {
        "same things in any order": (range(len(scenes)), scenes, 0.05),
        "colours traded": ([i for i, _ in swapped], [scene for _, scene in swapped], 0.95),
        "one thing left out": (range(len(scenes)), dropped, 0.95),
        "another scene": (range(len(scenes)), scenes[1:] + scenes[:1], 0.95),
    }
    card = {}
    for name, (rows, others, quantile) in groups.items():
        cosine = (base[list(rows)] * encoder.encode([examples.any_caption(s, rng) for s in others])).sum(1)
        worst = f"{quantile:.0%} quantile {cosine.quantile(quantile):.3f}"
        card[f"f_enc cosine, {name}"] = f"mean {cosine.mean():.3f}, {worst} (n = {len(cosine)})"
    first = encoder.encode(["a red circle and a blue square"])
    for text in ("a blue square and a red circle", "a blue circle and a red square", "a red circle", "a green ring"):
        cosine = (first @ encoder.encode([text]).T).item()
        card[f'f_enc cosine, "a red circle and a blue square" and "{text}"'] = f"{cosine:.3f}"
    return card
