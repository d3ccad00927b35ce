"""`CLIPTextModel`, the text encoder of the generator.

As in Stable Diffusion it is trained first and then frozen. Here it is trained to understand captions: the state of each
noun must give the noun's colour, and the state of the end token the pairs and the relation of the whole caption.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.train.fit import fit
from realign_cli.tinyworld.train.tokenizers import clip_tokenizer

LENGTH = 16
_STEPS = 700
_SCENES = 10_000
_BATCH = 128
_COLOURS, _PAIRS = list(scenes.COLOURS), scenes.all_pairs() + scenes.all_pairs(held_out=True)


def tokenizer() -> CLIPTokenizer:
    return clip_tokenizer(scenes.words(), LENGTH)


def build() -> CLIPTextModel:
    words = tokenizer()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


class Reader(nn.Module):
    """An encoder with throw-away heads, and its losses; its states are `width` wide, and what sums them up `pooled`."""

    def __init__(self, encoder: nn.Module, width: int, pooled: int) -> None:
        super().__init__()
        self.text = encoder
        self.noun = nn.Linear(width, len(_COLOURS) + 1)
        self.whole = nn.Linear(pooled, len(_PAIRS) + len(scenes.RELATIONS))

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The states of the tokens (B, T, width), and what sums up the caption (B, pooled)."""
        states = self.text(ids).last_hidden_state
        return states, states[:, -1]  # padding repeats the end token, and the last one has read everything

    def loss(self, captions: list[str], words: CLIPTokenizer) -> Tensor:
        ids = words(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        states, end = self.read(ids)
        colours, whole = zip(*(_truth(row, words) for row in ids.tolist()), strict=True)
        by_noun = F.cross_entropy(self.noun(states).flatten(0, 1), torch.tensor(colours).flatten(), ignore_index=-1)
        return by_noun + 5 * F.binary_cross_entropy_with_logits(self.whole(end), torch.tensor(whole))


def _truth(ids: list[int], words: CLIPTokenizer) -> tuple[list[int], list[float]]:
    """The colour of the noun at each position (`len(_COLOURS)` for none, -1 elsewhere), and the caption's content."""
    tokens = [token.removesuffix("</w>") for token in words.convert_ids_to_tokens(ids)]
    colours, whole = [-1] * len(tokens), [0.0] * (len(_PAIRS) + len(scenes.RELATIONS))
    for i, token in enumerate(tokens):
        if token in scenes.SHAPES:
            colour = tokens[i - 1]
            colours[i] = _COLOURS.index(colour) if colour in scenes.COLOURS else len(_COLOURS)
            if colour in scenes.COLOURS:
                whole[_PAIRS.index((colour, token))] = 1.0
        for k, relation in enumerate(scenes.RELATIONS):
            if token == relation.split()[0]:
                whole[len(_PAIRS) + k] = 1.0
    return colours, whole


def teach(reader: Reader, work: Path, *, last: bool = True) -> None:
    """Train a reader on careless captions; `last` is as of `fit`."""
    words, stream = tokenizer(), scenes.scenes(31)
    pool = [next(stream) for _ in range(_SCENES)]

    def loss(step: int, rank: int) -> Tensor:
        rng = np.random.default_rng([step, rank, 3])
        drawn = [pool[i] for i in rng.integers(_SCENES, size=_BATCH)]
        return reader.loss([scenes.corrupt(scene, rng, swap=0.3, drop=0.2) for scene in drawn], words)

    fit(reader, loss, steps=_STEPS, learning_rate=1e-3, work=work, last=last)


def main(work: Path) -> None:
    torch.manual_seed(0)
    reader = Reader(build(), 128, 128)
    teach(reader, work)
    reader.text.save_pretrained(work / "model")
    tokenizer().save_pretrained(work / "tokenizer")
