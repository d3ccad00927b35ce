"""The published shapes of Stable Diffusion, where they differ from the defaults of the classes, and their tokenizers.

A file of weights alone does not bring them. They are facts of the published configurations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import CLIPTokenizer

Part = dict[str, Any]

_NOISE: Part = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
_CLIP_L: Part = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
_OPEN_CLIP_H: Part = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,  # of 24: the last one is not read
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
_OPEN_CLIP_G: Part = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
_CLIP: Part = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "vocab_size": 49408}  # as published
_VAE: Part = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
_UNET_2: Part = {
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
_UNET_XL: Part = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}

ARCHITECTURES: dict[str, dict[str, Part]] = {
    "sd1": {
        "scheduler": _NOISE,
        "text_encoder": _CLIP | _CLIP_L,
        "unet": {"sample_size": 64, "cross_attention_dim": 768},
        "vae": _VAE,
    },
    "sd2": {  # 2.0 and 2.1, of 768 pixels
        "scheduler": _NOISE | {"prediction_type": "v_prediction"},
        "text_encoder": _CLIP | _OPEN_CLIP_H,
        "unet": _UNET_2 | {"sample_size": 96},
        "vae": _VAE,
    },
    "sd2-base": {
        "scheduler": _NOISE,
        "text_encoder": _CLIP | _OPEN_CLIP_H,
        "unet": _UNET_2,
        "vae": _VAE,
    },
    "sdxl": {
        "scheduler": _NOISE,
        "text_encoder": _CLIP | _CLIP_L,
        "text_encoder_2": _CLIP | _OPEN_CLIP_G,
        "unet": _UNET_XL,
        "vae": _VAE | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    },
}
_CLASSES = {
    "scheduler": ("diffusers", "DDIMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}
_FILES = {"scheduler": "scheduler_config.json"}


@contextmanager
def configuration(parts: dict[str, Part], pipeline: str) -> Iterator[Path]:
    """A folder such as a pipeline of that class has, without weights and tokenizers, for as long as it is needed."""
    names = [*parts, *(name.replace("text_encoder", "tokenizer") for name in parts if name.startswith("text_encoder"))]
    with TemporaryDirectory() as place:
        folder = Path(place)
        index = {"_class_name": pipeline, **{name: _CLASSES[name] for name in names}}
        (folder / "model_index.json").write_text(json.dumps(index))
        for name, part in parts.items():
            (folder / name).mkdir()
            (folder / name / _FILES.get(name, "config.json")).write_text(json.dumps(part))
        yield folder


def tokenizers(architecture: str) -> dict[str, CLIPTokenizer]:
    """CLIP's tokenizers by their names in a pipeline; those of OpenCLIP pad with the token 0, which is "!"."""
    opened = {"tokenizer": architecture.startswith("sd2")}
    if architecture == "sdxl":
        opened["tokenizer_2"] = True
    return {name: clip_tokenizer("!" if padded else "<|endoftext|>") for name, padded in opened.items()}


def clip_tokenizer(pad_token: str) -> CLIPTokenizer:
    """CLIP's own, built of the vocabulary that open_clip brings."""
    from open_clip.tokenizer import SimpleTokenizer

    known = SimpleTokenizer()
    start, end = known.all_special_ids
    names = {start: "<|startoftext|>", end: "<|endoftext|>"}
    vocabulary = {names.get(number, token): number for token, number in known.encoder.items()}
    return CLIPTokenizer(
        vocab=vocabulary, merges=list(known.bpe_ranks), pad_token=pad_token, model_max_length=known.context_length
    )
