"""Promptist (Hao et al., NeurIPS 2023): a GPT-2 that rewrites what a user asked for into what a generator does well.

The decoding is that of its authors' demonstration. Beam search divides the score of a text by its length to the power
of `length_penalty`: -1, the published one, multiplies instead, and favours short texts. transformers counted the prompt
into that length until 4.35, and from 4.36 on counts what is generated alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from realign_cli.models.loading import Checkpoint, cannot_load, silent

_ASKS, _WORD = " Rephrase:", "rephrase"


class Promptist:
    """`roles.Rewriter`: beam search, the best beam, one prompt at a time, so that no other pads it.

    Args:
        checkpoint: a folder or a hub id of a causal language model; `revision` a commit of the latter.
        device: "cpu" or "cuda".
        tokenizer: a folder or a hub id, if not that of the checkpoint; `tokenizer_revision` its commit.
        num_beams: beams of the search.
        max_new_tokens: tokens of a rewritten prompt, at most.
        length_penalty: the power of the length by which a beam's score is divided.

    Raises:
        RealignError: there is no such checkpoint or tokenizer.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str,
        tokenizer: str = "",
        num_beams: int = 8,
        max_new_tokens: int = 75,
        length_penalty: float = -1.0,
        revision: str = "main",
        tokenizer_revision: str = "main",
    ) -> None:
        words, commit = (tokenizer, tokenizer_revision) if tokenizer else (checkpoint, revision)
        try:
            with silent():
                self._tokenizer = AutoTokenizer.from_pretrained(words, revision=commit)
                model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, revision=revision, dtype=torch.float32)
        except OSError as error:
            raise cannot_load(checkpoint, error) from None
        self._model = model.to(device).eval().requires_grad_(False)
        self._decoding = {
            "do_sample": False,
            "num_beams": num_beams,
            "max_new_tokens": max_new_tokens,
            "length_penalty": length_penalty,
            "eos_token_id": self._tokenizer.eos_token_id,
            "pad_token_id": self._tokenizer.eos_token_id,
        }
        self._room = model.config.max_position_embeddings - max_new_tokens

    def rewrite(self, prompts: Sequence[str]) -> list[str]:
        return [self._rewrite(prompt) for prompt in prompts]

    @torch.no_grad()
    def _rewrite(self, prompt: str) -> str:
        asked = self._tokenizer(prompt.strip() + _ASKS, return_tensors="pt").to(self._model.device)
        length = asked.input_ids.shape[1]
        if length > self._room:
            return ""  # it would be read in part
        ids = self._model.generate(asked.input_ids, attention_mask=asked.attention_mask, **self._decoding)
        text = self._tokenizer.decode(ids[0, length:], skip_special_tokens=True).strip()
        return "" if _WORD in text.lower() else text
