"""BLIP-2 of LAVIS's own classes at a small size with random weights, under the names that it asks for.

    python tests/lavis_zoo.py FOLDER caption-reward --backend lavis ...

is `realign` with these instead of the published models.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import lavis.models.blip2_models.blip2 as builder
import torch
from lavis.models.blip2_models.modeling_opt import OPTConfig, OPTForCausalLM
from lavis.models.blip2_models.Qformer import BertConfig, BertLMHeadModel
from lavis.models.eva_vit import VisionTransformer
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

WORDS = ["a", "and", "blue", "circle", "cross", "green", "pink", "red", "ring", "square"]


def build(folder: Path) -> None:
    """Make `folder` a place to work in and a `TORCH_HOME`, both of which LAVIS looks into before the network."""
    torch.manual_seed(0)
    _language_of_scores(folder / "bert-base-uncased")
    _language_of_captions(folder / "facebook" / "opt-2.7b")
    hub = folder / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    for name in ("blip2_pretrained.pth", "blip2_pretrained_opt2.7b.pth"):
        torch.save({"model": {}}, hub / name)  # it changes no weight: those drawn at random stay


def small_vision(size: int, drop_path_rate: float, use_checkpoint: bool, precision: str) -> VisionTransformer:
    """In the place of LAVIS's `create_eva_vit_g`, which is the only one that knows no name to put another under."""
    return VisionTransformer(
        img_size=size,
        patch_size=14,
        embed_dim=48,
        depth=2,
        num_heads=2,
        qkv_bias=True,
        use_mean_pooling=False,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    )


def _language_of_scores(folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        initializer_range=0.2,
        encoder_width=48,
        add_cross_attention=True,
        cross_attention_freq=2,
        query_length=32,
    )
    BertLMHeadModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))


def _language_of_captions(folder: Path) -> None:
    """An OPT that speaks in bytes."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *bytes_to_unicode().values()]
    config = OPTConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        init_std=0.5,
    )
    OPTForCausalLM(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "errors": "replace", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    from realign_cli.app import app

    home = Path(sys.argv.pop(1)).resolve()
    if not home.exists():
        build(home)
    os.environ["TORCH_HOME"] = str(home)
    os.chdir(home)
    builder.create_eva_vit_g = small_vision
    app()
