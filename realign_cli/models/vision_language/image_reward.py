"""ImageReward (Xu et al., 2023), a reward learned from human preferences: the rival of Table 3.

The published model is BLIP's image-grounded text encoder with a small perceptron on its first token. It is built here
from transformers' BLIP, whose parts are the same under other names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn
from transformers import AutoTokenizer, BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from realign_cli.errors import RealignError
from realign_cli.models.loading import cannot_load
from realign_cli.models.pixels import pixels_to_input

if TYPE_CHECKING:
    from realign_cli.roles import Models

_FILE = "ImageReward.pt"
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the raw scores on the authors' data
_MAX_TOKENS = 35
_HEAD = 64  # width of an attention head in every published BLIP
_VISION = (  # the checkpoint's names -> those of transformers
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"^norm\.", "post_layernorm."),
)


class ImageReward:
    """`roles.Reward`: a standardised preference score, about -2.5 to 2; margin 2 as published.

    Args:
        checkpoint: a folder with `ImageReward.pt`, or a hub id; `revision` its commit.
        tokenizer: of bert-base-uncased; a folder or a hub id, `tokenizer_revision` its commit.

    Raises:
        RealignError: there is no such checkpoint, or it is of another model.
    """

    margin = 2.0

    def __init__(
        self,
        models: Models,
        *,
        checkpoint: str,
        tokenizer: str = "google-bert/bert-base-uncased",
        revision: str = "main",
        tokenizer_revision: str = "main",
    ) -> None:
        try:
            folder = Path(checkpoint)
            path = folder / _FILE if folder.is_dir() else hf_hub_download(checkpoint, _FILE, revision=revision)
            state = torch.load(path, map_location="cpu", weights_only=True)
            self._tokenizer = AutoTokenizer.from_pretrained(tokenizer, revision=tokenizer_revision)
        except OSError as error:
            raise cannot_load(checkpoint, error) from None
        self._model = network(state).to(models.device).eval().requires_grad_(False)
        self._device = models.device

    def __call__(self, pixels: Tensor, prompts: Sequence[str], seed: int) -> Tensor:
        size: Any = self._model.vision.config.image_size
        text = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
        ).to(self._device)
        raw = self._model(pixels_to_input(pixels.float(), size), text.input_ids, text.attention_mask)
        return (raw - MEAN) / STD


class _Network(nn.Module):
    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig) -> None:
        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        widths = (text.hidden_size, 1024, 128, 64, 16, 1)
        self.mlp = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        seen = self.vision(images).last_hidden_state
        read = self.text(ids, attention_mask=mask, encoder_hidden_states=seen, is_decoder=False).last_hidden_state
        return self.mlp(read[:, 0]).squeeze(-1)


def network(state: Mapping[str, Tensor]) -> _Network:
    """The network that the weights of a published checkpoint describe, with these weights.

    Raises:
        RealignError: weights are missing, or of other shapes.
    """
    mapped: dict[str, Tensor] = {}
    for name, weight in state.items():
        if name.startswith("blip.visual_encoder."):
            key = name.removeprefix("blip.visual_encoder.")
            for pattern, replacement in _VISION:
                key = re.sub(pattern, replacement, key)
            mapped[f"vision.{key}"] = weight
        elif name.startswith("blip.text_encoder.") and not name.endswith("position_ids"):
            mapped[f"text.{name.removeprefix('blip.text_encoder.')}"] = weight
        elif name.startswith("mlp.layers."):  # linear layers with dropout between all but the last two
            index, _, kind = name.removeprefix("mlp.layers.").partition(".")
            mapped[f"mlp.{(0, 2, 4, 6, 7).index(int(index))}.{kind}"] = weight
    try:
        made = _Network(_vision_config(mapped), _text_config(mapped))
        made.load_state_dict(mapped)
    except (KeyError, RuntimeError) as error:
        raise RealignError(f"not an ImageReward checkpoint: {' '.join(str(error).split())[:200]}") from None
    return made


def _vision_config(state: Mapping[str, Tensor]) -> BlipVisionConfig:
    width, _, patch, _ = state["vision.embeddings.patch_embedding.weight"].shape
    side = int((state["vision.embeddings.position_embedding"].shape[1] - 1) ** 0.5)
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=state["vision.encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_layers(state, "vision.encoder.layers."),
        num_attention_heads=width // _HEAD,
        image_size=side * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )


def _text_config(state: Mapping[str, Tensor]) -> BlipTextConfig:
    vocabulary, width = state["text.embeddings.word_embeddings.weight"].shape
    return BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        encoder_hidden_size=state["text.encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=state["text.encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_layers(state, "text.encoder.layer."),
        num_attention_heads=width // _HEAD,
        max_position_embeddings=state["text.embeddings.position_embeddings.weight"].shape[0],
        is_decoder=True,  # only then does it have cross-attention; it is called as an encoder
    )


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix))
