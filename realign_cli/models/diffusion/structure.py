"""StructureDiffusion inside a diffusers UNet: `with structured(unet, texts, form): ...`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from realign_cli.equations import structure as eq
from realign_cli.models.diffusion.attention_control import attend_one_by_one, by_heads, installed, reads_text

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

Phrases = Sequence[tuple[Tensor, slice]]  # the embedding (T, D) of each, encoded alone, and its place in the prompt


@contextmanager
def structured(unet: UNet2DConditionModel, prompts: Tensor, phrases: Sequence[Phrases], form: str) -> Iterator[None]:
    """Let the cross-attention of `unet` read phrases as they are alone, until the block is left.

    Args:
        prompts: the embeddings of the batch's prompts, (B, T, D). The UNet may be called with the batch alone or with
            the unconditional half before it, which is left alone.
        phrases: those of each image; one without is left alone.
        form: "default" or "conjunction", see `equations.structure`.
    """
    if not any(phrases):
        yield
    elif form == "default":
        means = [eq.mean_embedding(prompts[i], own) if own else prompts[i] for i, own in enumerate(phrases)]
        with _values(unet, torch.stack(means)):
            yield
    else:
        texts = {i: _conjoined(prompts[i], own) for i, own in enumerate(phrases) if own}
        with installed(unet, lambda stock: _Conjunction(len(prompts), texts, stock), lambda *_: None):
            yield


@contextmanager
def _values(unet: UNet2DConditionModel, embeddings: Tensor) -> Iterator[None]:
    """The values of all cross-attention of the last rows of a batch are those of `embeddings`, the keys are not."""

    def swap(_to_v: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        context, *rest = args
        return torch.cat([context[: -len(embeddings)], embeddings.to(context)]), *rest

    with ExitStack() as stack:
        for layer in unet.modules():
            if reads_text(layer):
                stack.callback(layer.to_v.register_forward_pre_hook(swap).remove)
        yield


@dataclass(frozen=True)
class _Texts:
    """What one image reads: for its keys, (n, T, D), and for its values, (T, D)."""

    keys: Tensor
    values: Tensor


def _conjoined(prompt: Tensor, phrases: Phrases) -> _Texts:
    whole = prompt
    for phrase, place in phrases:
        whole = eq.spliced(whole, phrase, place)
    return _Texts(torch.stack([prompt, *(eq.spliced(prompt, phrase, place) for phrase, place in phrases)]), whole)


class _Conjunction:
    """The processor of one layer of a transformer block; `stock` is the one it stands in for."""

    def __init__(self, batch: int, texts: dict[int, _Texts], stock: Callable[..., Tensor]) -> None:
        self._batch, self._texts, self._stock = batch, texts, stock

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        if encoder_hidden_states is None:
            return self._stock(attn, hidden_states, encoder_hidden_states, attention_mask)
        attend = partial(self._attend, attn)
        return attend_one_by_one(attn, hidden_states, encoder_hidden_states, self._batch, self._texts, attend)

    def _attend(self, attn: Attention, image: int, query: Tensor, _key: Tensor, _value: Tensor) -> Tensor:
        texts = self._texts[image]
        keys = by_heads(attn.to_k(texts.keys.to(query)), attn.heads)
        value = by_heads(attn.to_v(texts.values.to(query)), attn.heads)
        return eq.conjunction_attention(query, keys, value)
