"""Attention of a layer written out, as the formulation that processors and recorders are held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class WrittenOut:
    """A processor that computes the attention of its layer as an explicit softmax and gives that of texts to `keep`."""

    def __init__(self, keep: Callable[[Tensor], object]) -> None:
        self.keep = keep

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        probabilities = (q @ k.mT * attn.scale).softmax(-1)
        if encoder_hidden_states is not None:
            self.keep(probabilities)
        mixed: Tensor = attn.to_out[0]((probabilities @ v).transpose(1, 2).flatten(2))
        return mixed
