"""Let regions of an image read texts of their own: `with regional(unet, texts, control, timesteps): ...`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from realign_cli.equations import attention as eq
from realign_cli.models.diffusion.attention_control import (
    Cells,
    attend_one_by_one,
    by_heads,
    cells_at,
    cells_of,
    first_steps,
    installed,
    plain_map,
    timestep_of,
)

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from torch import Tensor, nn

    from realign_cli.models.diffusion.attention_control import CrossMap
    from realign_cli.settings import Regional


@dataclass(frozen=True)
class RegionTexts:
    """What n >= 1 regions of one image read."""

    masks: Tensor  # bool (n, H, W), none empty
    embeddings: Tensor  # (n, T, D): of the text of each region
    readings: Tensor  # (n, T, T): the tokens of the prompt for which those of each text count, see `eq.regional_map`


def readings_of(counted: Mapping[int, Sequence[int]], end: int, length: int) -> Tensor:
    """P of `eq.regional_map`, (T, T), from the places of a text's tokens to those in the prompt that each counts for.

    Several get an equal share. BOS counts for BOS; EOS, padding and tokens that count for none, for the prompt's EOS at
    `end`. `length` is T.
    """
    readings = torch.zeros(length, length)
    readings[0, 0] = 1
    readings[1:, end] = 1
    for token, places in counted.items():
        readings[token] = 0
        readings[token, list(places)] = 1 / len(places)
    return readings


@contextmanager
def regional(
    unet: UNet2DConditionModel, texts: Sequence[RegionTexts | None], control: Regional, timesteps: Tensor
) -> Iterator[CrossMap]:
    """Give regions their own texts in the cross-attention of `unet` until the block is left.

    Gives what says of cross-attention how the tokens of the prompt are attended to, as `plain_map` does.

    Args:
        texts: one per image of the batch, None for images to leave alone. The UNet may be called with the batch alone
            or with the unconditional half before it, which is left alone.
        control: in which steps, and how much larger than its mask a region is.
        timesteps: those of the whole run, first to last; beyond the first `control.step_fraction` of them the UNet
            computes exactly what it computes without this.
    """
    regions = _Regions(texts, control, timesteps)
    with installed(unet, lambda stock: _RegionalProcessor(regions, stock), regions.observe):
        yield regions.cross_map


class _Regions:
    """What the processors of all layers share: the texts, and whether the step under way is one of the first."""

    def __init__(self, texts: Sequence[RegionTexts | None], control: Regional, timesteps: Tensor) -> None:
        self.batch = len(texts)
        self.texts = {image: own for image, own in enumerate(texts) if own is not None}
        self.under_way = False
        self._dilation = control.dilation
        self._latents: Cells = 0, 0
        self._steps = first_steps(timesteps, control.step_fraction)
        self._weights: dict[tuple[int, int], Tensor] = {}

    def observe(self, _unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before each call of the UNet, see whether its timestep is one of the first, and how large its latents are."""
        self._latents = cells_of(args, kwargs)
        self.under_way = bool(self.texts) and timestep_of(args, kwargs) in self._steps

    def cross_map(self, attn: Attention, image: int, query: Tensor, key: Tensor) -> Tensor:
        """As `plain_map`."""
        if not self.under_way or image not in self.texts:
            return plain_map(attn, image, query, key)
        texts = self.texts[image]
        keys = by_heads(attn.to_k(texts.embeddings.to(key)), attn.heads)
        weights = self.weights(image, query.shape[-2], query.device)
        return eq.regional_map(query, key, keys, texts.readings.to(query.device), weights)

    def weights(self, image: int, queries: int, device: torch.device) -> Tensor:
        """`region_weights` (n, N) of one image for a layer with N pixels, computed once."""
        if (image, queries) not in self._weights:
            masks, cells = self.texts[image].masks.to(device), cells_at(self._latents, queries)
            dilation = round(self._dilation * min(self._latents))
            self._weights[image, queries] = eq.region_weights(masks, self._latents, dilation, cells)
        return self._weights[image, queries]


class _RegionalProcessor:
    """The processor of one layer of a transformer block; `stock` is the one it stands in for."""

    def __init__(self, regions: _Regions, stock: Callable[..., Tensor]) -> None:
        self._regions = regions
        self._stock = stock

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        if encoder_hidden_states is None or not self._regions.under_way:
            return self._stock(attn, hidden_states, encoder_hidden_states, attention_mask)
        attend = partial(self._attend, attn)
        regions = self._regions
        return attend_one_by_one(attn, hidden_states, encoder_hidden_states, regions.batch, regions.texts, attend)

    def _attend(self, attn: Attention, image: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        texts = self._regions.texts[image].embeddings.to(key)
        keys, values = by_heads(attn.to_k(texts), attn.heads), by_heads(attn.to_v(texts), attn.heads)
        weights = self._regions.weights(image, query.shape[-2], query.device)
        return eq.regional_attention(query, key, value, keys, values, weights)
