"""`GPT2LMHeadModel`: it rewrites careless prompts of the embedded world as the plain ones that they mean.

It learns what follows "Rephrase:", as Promptist did before its training by rewards, which this model does without.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from realign_cli.models.language.promptist import Promptist
from realign_cli.tinyworld import scenes
from realign_cli.tinyworld.train.careless import careless, words
from realign_cli.tinyworld.train.fit import fit
from realign_cli.tinyworld.train.publish import model_card, percentage, publish
from realign_cli.tinyworld.train.tokenizers import word_tokenizer

_STEPS, _BATCH = 2600, 32
_SCENES = 20_000
_LENGTH = 64  # of prompt and answer together, in tokens
_PLAIN = 0.2  # share of the prompts that are plain already
_WIDTH = 128
_IGNORED = -100  # of a label: nothing is learnt from it


def tokenizer() -> PreTrainedTokenizerFast:
    made = word_tokenizer(words(), framed=False)
    made.model_max_length = _LENGTH
    return made


def build() -> GPT2LMHeadModel:
    vocabulary = tokenizer()
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(vocabulary),
            n_positions=_LENGTH,
            n_embd=_WIDTH,
            n_layer=5,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            initializer_range=0.08,  # with the usual 0.02, made for wide models, narrow layers pass on little
            bos_token_id=vocabulary.eos_token_id,
            eos_token_id=vocabulary.eos_token_id,
            pad_token_id=vocabulary.pad_token_id,
        )
    )


def batch(pairs: list[tuple[str, str]], vocabulary: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """Prompts and what they are to become, as the model reads them; only the latter, and its end, are learnt from."""
    rows, labels = [], []
    for prompt, plain in pairs:
        asked, answer = (vocabulary(text).input_ids for text in (f"{prompt} Rephrase:", plain))
        answer = [*answer, vocabulary.eos_token_id]
        rows.append(asked + answer)
        labels.append([_IGNORED] * len(asked) + answer)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [vocabulary.pad_token_id] * (longest - len(row)) for row in rows])
    told = torch.tensor([row + [_IGNORED] * (longest - len(row)) for row in labels])
    return {"input_ids": ids, "attention_mask": (ids != vocabulary.pad_token_id).long(), "labels": told}


def main(work: Path) -> None:
    torch.manual_seed(0)
    model, vocabulary = build(), tokenizer()
    pool = list(islice(scenes.scenes(61), _SCENES))

    def loss(step: int, rank: int) -> Tensor:
        rng = np.random.default_rng([step, rank, 60])
        drawn = [pool[i] for i in rng.integers(_SCENES, size=_BATCH)]
        pairs = [(s.caption,) * 2 if rng.random() < _PLAIN else careless(s, rng) for s in drawn]
        out: Tensor = model(**batch(pairs, vocabulary)).loss
        return out

    minutes = fit(model, loss, steps=_STEPS, learning_rate=1e-3, work=work, ema=0.998)
    folder = work / "model"
    model.half().save_pretrained(folder)
    vocabulary.save_pretrained(folder)
    card = model_card(
        model="GPT2LMHeadModel",
        parameters=model.num_parameters(),
        trained_on=f"{_STEPS * _BATCH} prompts of {_SCENES} scenes of the training split, {_PLAIN:.0%} of them plain "
        "and the others careless (`tinyworld/train/careless.py`), with the plain prompts that they mean; no other data",
        steps=str(_STEPS),
        minutes=f"{minutes:.0f}",
        quality=measure(folder),
    )
    publish("rewriter", folder, card)


def measure(folder: Path) -> dict[str, str]:
    """Measure the model on held-out combinations through its adapter, as the preset has it, for the card."""
    rewriter = Promptist(folder, device="cpu", num_beams=4, max_new_tokens=24)
    plain = scenes.held_out_prompts()[:400]
    card = {
        "held-out prompts of two things, plain already: left as they are": percentage(
            one == other for one, other in zip(rewriter.rewrite(plain), plain, strict=True)
        )
    }
    rng = np.random.default_rng(62)
    for count in (2, 3):
        drawn = islice(scenes.scenes(63, held_out=True, count=count), 200)
        prompts, meant = zip(*(careless(scene, rng) for scene in drawn), strict=True)
        right = [one == other for one, other in zip(rewriter.rewrite(prompts), meant, strict=True)]
        card[f"careless prompts of {count} things in held-out combinations: set right"] = percentage(right)
    return card
