"""CLIP in open_clip's layout, trained on the contrast of pictures and captions, which teaches little about binding.

Its vision tower starts from the captioner's: train `captioner` first.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image
from transformers import Blip2ForConditionalGeneration, Blip2VisionModel

from realign_cli.models.pixels import pixels_to_input
from realign_cli.models.vision_language.open_clip import OpenClipMetric
from realign_cli.tinyworld.scenes import SIZE, words
from realign_cli.tinyworld.train import examples
from realign_cli.tinyworld.train.captioner import vision_config
from realign_cli.tinyworld.train.fit import fit
from realign_cli.tinyworld.train.measures import prefers_truth
from realign_cli.tinyworld.train.pictures import LEAKY, Pictures, draw_held_out, draw_leaky
from realign_cli.tinyworld.train.publish import WEIGHTS, model_card, percentage, publish
from realign_cli.tinyworld.train.tokenizers import word_tokenizer

_STEPS = 600
_BATCH = 64
_CONTEXT = 24


def configuration() -> dict[str, object]:
    """The `model_cfg` of open_clip; the vision tower is the captioner's, which has no norm before its first layer."""
    return {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": SIZE,
            "patch_size": SIZE // examples.GRID,
            "width": 128,
            "layers": vision_config().num_hidden_layers,
            "head_width": 32,
            "mlp_ratio": 2.0,
            "no_ln_pre": True,
        },
        "text_cfg": {
            "context_length": _CONTEXT,
            "vocab_size": len(word_tokenizer(words())),
            "width": 96,
            "layers": 2,
            "heads": 4,
            "mlp_ratio": 2.0,
            "hf_tokenizer_name": "tokenizer",  # any name will do: open_clip reads the one in the folder
        },
    }


class ClipTraining(nn.Module):
    """The model and its losses."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = open_clip.CLIP(**configuration())
        self.words = word_tokenizer(words())

    def loss(self, drawn: Pictures, rng: np.random.Generator, *, foils: bool) -> Tensor:
        """Symmetric contrast; with `foils` each picture is also compared with a foil of its own caption.

        The foils are the hard negatives of NegCLIP (Yuksekgonul et al., 2023).
        """
        scenes = drawn.scenes
        pictures = self.clip.encode_image(pixels_to_input(drawn.pixels, SIZE), normalize=True)
        same = examples.false_negatives(scenes, scenes)
        others = [examples.foil(scene, rng) for scene in scenes] if foils else []
        texts = self._embed([examples.any_caption(scene, rng) for scene in [*scenes, *others]])
        logits = self.clip.logit_scale.exp().clamp(max=100) * pictures @ texts.T
        across = torch.cat([same, examples.false_negatives(scenes, others)], 1) if foils else same
        return (examples.info_nce(logits, across) + examples.info_nce(logits[:, : len(scenes)].T, same)) / 2

    def _embed(self, texts: list[str]) -> Tensor:
        padded = self.words(texts, padding="max_length", max_length=_CONTEXT, truncation=True, return_tensors="pt")
        return self.clip.encode_text(padded.input_ids, normalize=True)


def main(work: Path) -> None:
    torch.manual_seed(0)
    training = ClipTraining()
    captioner = Blip2ForConditionalGeneration.from_pretrained(WEIGHTS / "captioner", dtype=torch.float32)
    copy_tower(captioner.vision_model, training.clip.visual)
    train(training, "clip", work, steps=_STEPS, learning_rate=7e-4, foils=False, origin="the captioner's vision tower")


@torch.no_grad()
def copy_tower(source: Blip2VisionModel, target: nn.Module) -> None:
    """Copy BLIP-2's vision tower into open_clip's, which differs in names and has no bias of the patches."""
    places = source.embeddings.position_embedding[0].clone()
    places[1:] += source.embeddings.patch_embedding.bias
    state = {
        "conv1.weight": source.embeddings.patch_embedding.weight,
        "class_embedding": source.embeddings.class_embedding.flatten(),
        "positional_embedding": places,
        **{f"ln_post.{key}": value for key, value in source.post_layernorm.state_dict().items()},
    }
    names = {
        "layer_norm1.": "ln_1.",
        "layer_norm2.": "ln_2.",
        "self_attn.qkv.": "attn.in_proj_",
        "self_attn.projection.": "attn.out_proj.",
        "mlp.fc1.": "mlp.c_fc.",
        "mlp.fc2.": "mlp.c_proj.",
    }
    for key, value in source.encoder.layers.state_dict().items():
        index, _, rest = key.partition(".")
        ours = next(name for name in names if rest.startswith(name))
        state[f"transformer.resblocks.{index}.{names[ours]}{rest.removeprefix(ours)}"] = value
    missing, unexpected = target.load_state_dict(state, strict=False)
    assert missing == ["proj"] and not unexpected, (missing, unexpected)


def train(
    training: ClipTraining, role: str, work: Path, *, steps: int, learning_rate: float, foils: bool, origin: str
) -> None:
    """Train, save in open_clip's layout, measure and publish."""

    def loss(step: int, rank: int) -> Tensor:
        drawn = draw_leaky(_BATCH, np.random.default_rng([step, rank, 40 + foils]))
        return training.loss(drawn, np.random.default_rng([step, rank, 50 + foils]), foils=foils)

    minutes = fit(training, loss, steps=steps, learning_rate=learning_rate, work=work, ema=0.998)
    folder = work / "model"
    folder.mkdir(exist_ok=True)
    save_file(training.clip.half().state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": configuration()}, indent=2))
    training.words.save_pretrained(folder)
    captions = "true captions in any order, some with a relation"
    card = model_card(
        model="open_clip.CLIP, ViT of 64 patches and a text transformer",
        parameters=sum(parameter.numel() for parameter in training.clip.parameters()),
        trained_on=f"{steps * _BATCH} {LEAKY}, with {captions}{'; each caption has a foil' if foils else ''}",
        notes={"started from": origin},
        steps=str(steps),
        minutes=f"{minutes:.1f}",
        quality=measure(folder, role),
    )
    publish(role, folder, card)


def measure(folder: Path, column: str) -> dict[str, str]:
    """Measure the model on held-out scenes through its adapter, for the card."""
    judge = OpenClipMetric(folder, device="cpu", column=column)

    def score(pixels: Tensor, texts: list[str]) -> Tensor:
        return torch.tensor(judge.measure([to_pil_image(picture) for picture in pixels], texts)[column])

    drawn = draw_held_out(1000, 6)
    card = {}
    for name, seen in (
        ("clean", drawn),
        ("spoiled", drawn.spoiled(np.random.default_rng(7))),
    ):
        right = prefers_truth(score, seen, 9)
        card[f"true caption above colour-swapped, {name} pictures"] = percentage(right)
        rng = np.random.default_rng(13)
        texts = [examples.any_caption(scene, rng) for scene in seen.scenes]
        other = score(seen.pixels.roll(1, 0), texts)
        true = score(seen.pixels, texts)
        card[f"own picture above another's, {name} pictures"] = percentage((true > other).tolist())
        card[f"cosine, {name} pictures"] = f"own {true.mean():.3f}, another's {other.mean():.3f} (n = {len(true)})"
    return card
