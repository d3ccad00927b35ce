"""Apply Eq. 7-9 inside a diffusers UNet: `with modulated(unet, layouts, modulation, timesteps): ...`."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from realign_cli.equations import attention as eq

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from realign_cli.settings import Modulation

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
Cells = tuple[int, int]  # height and width
Observe = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]
CrossMap = Callable[[Any, int, Tensor, Tensor], Tensor]  # see `plain_map`


@dataclass(frozen=True)
class Layout:
    """What to modulate in one image of n >= 1 objects."""

    masks: Tensor  # bool (n, H, W), none empty
    tokens: Tensor  # bool (n, T): the object's phrase among the T tokens of the prompt
    likelihoods: Tensor  # float (n,), Eq. 6

    def with_background(self) -> Layout:
        """With the pixels that no mask holds as one more object, of which the prompt says nothing."""
        rest = ~self.masks.any(0, keepdim=True)
        if not rest.any():
            return self
        nothing = torch.zeros_like(self.tokens[:1])
        likelihoods = torch.cat([self.likelihoods, torch.ones_like(self.likelihoods[:1])])
        return Layout(torch.cat([self.masks, rest]), torch.cat([self.tokens, nothing]), likelihoods)


@contextmanager
def modulated(
    unet: UNet2DConditionModel, layouts: Sequence[Layout | None], modulation: Modulation, timesteps: Tensor
) -> Iterator[CrossMap]:
    """Modulate the attention of `unet` until the block is left, however it is left.

    Gives what says of cross-attention how it is modulated, as `plain_map` does where it is not.

    Args:
        layouts: one per image of the batch, None for images to leave alone. The UNet may be called with the batch
            alone or with the unconditional half before it, which is left alone.
        modulation: strengths, see `roles.Modulation`.
        timesteps: those of the whole run, first to last. The first `modulation.step_fraction` of them are modulated; at
            all others the UNet computes exactly what it computes without this.
    """
    control = _Control(layouts, modulation, timesteps)
    with installed(unet, lambda stock: _Modulated(control, stock), control.observe):
        yield control.cross_map


@contextmanager
def installed(unet: UNet2DConditionModel, wrap: Callable[[Any], Any], observe: Observe) -> Iterator[None]:
    """Put wrapped attention processors into `unet` until the block is left; `observe` sees each call."""
    stock: dict[str, Any] = unet.attn_processors
    processors: dict[str, Any] = {name: wrap(processor) for name, processor in stock.items()}
    hook = unet.register_forward_pre_hook(observe, with_kwargs=True)
    try:
        unet.set_attn_processor(processors)
        yield
    finally:
        hook.remove()
        unet.set_attn_processor(dict(stock))  # the call empties the dictionary it is given


def timestep_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """The timestep with which a UNet is called: a number, the same for the whole batch."""
    return float(kwargs["timestep"] if "timestep" in kwargs else args[1])


def cells_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Cells:
    """Those of the latents with which a UNet is called."""
    height, width = (args[0] if args else kwargs["sample"]).shape[-2:]
    return height, width


def cells_at(latents: Cells, queries: int) -> Cells:
    """Those of a layer with that many pixels, in a UNet that halves its latents from level to level, rounding up."""
    height, width = latents
    while height * width > queries:
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def first_steps(timesteps: Tensor, fraction: float) -> set[float]:
    """The first share of the timesteps of a run."""
    return set(timesteps[: round(fraction * len(timesteps))].tolist())


def reads_text(module: nn.Module) -> bool:
    """Whether it is a layer of cross-attention."""
    return isinstance(module, Attention) and module.is_cross_attention


def by_heads(states: Tensor, heads: int) -> Tensor:
    """(..., N, C) -> (..., heads, N, d)."""
    return states.unflatten(-1, (heads, -1)).transpose(-3, -2)


def query_and_key(attn: Attention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """What a layer of cross-attention is about to multiply, called with these arguments: (B, heads, N or T, d)."""
    query, key = attn.to_q(args[0]), attn.to_k(kwargs["encoder_hidden_states"])
    return by_heads(query, attn.heads), by_heads(key, attn.heads)


def plain_map(_attn: Attention, _image: int, query: Tensor, key: Tensor) -> Tensor:
    """The cross-attention of an image of the batch, by its number, in a layer: float32 (heads, N, T).

    Of its query (heads, N, d) and its key (heads, T, d), in the step under way.
    """
    return eq.plain_map(query, key)


def attend_one_by_one(
    attn: Attention, hidden_states: Tensor, context: Tensor, batch: int, controlled: Container[int], attend: Attend
) -> Tensor:
    """An attention layer, (B, N, C), in which `attend` computes the `controlled` ones of the last `batch` rows.

    It is given the number of an image and its query, key and value, (heads, N or T, d). Rows before the last `batch`
    are the unconditional half; they and all other images are computed as ever.
    """
    query, key, value = (
        by_heads(x, attn.heads) for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
    )
    first = len(query) - batch
    out = torch.empty_like(query)
    if first:
        out[:first] = F.scaled_dot_product_attention(query[:first], key[:first], value[:first])
    for image in range(batch):  # one by one, so that no image depends on the batch it is in
        q, k, v = (x[first + image] for x in (query, key, value))
        plain = F.scaled_dot_product_attention
        out[first + image] = attend(image, q, k, v) if image in controlled else plain(q[None], k[None], v[None])[0]
    states: Tensor = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))
    return states


class _Maps(NamedTuple):
    """A layout at the resolution of one attention layer."""

    segments: eq.Segments
    match: Tensor  # R of cross-attention, bool (N, T)
    score: Tensor  # S of cross-attention, float (T,)


class _Control:
    """What the processors of all layers share: the layouts, and lambda_t of the step under way."""

    def __init__(self, layouts: Sequence[Layout | None], modulation: Modulation, timesteps: Tensor) -> None:
        self.batch = len(layouts)
        self.layouts = {image: layout for image, layout in enumerate(layouts) if layout is not None}
        self.modulation = modulation
        self._steps = first_steps(timesteps, modulation.step_fraction)
        self._timestep: float | None = None
        self._latents: Cells = 0, 0
        self._maps: dict[tuple[int, int], _Maps] = {}
        self._weights: dict[tuple[int, int, bool], Tensor] = {}  # of the step under way

    def observe(self, _unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before each call of the UNet, take note of its timestep and of the size of its latents."""
        self._latents = cells_of(args, kwargs)
        timestep = timestep_of(args, kwargs)
        self._timestep = timestep if timestep in self._steps else None
        self._weights.clear()

    def strength(self, *, cross: bool) -> float:
        """lambda_t, 0 where nothing is to be done."""
        if self._timestep is None or not self.layouts:
            return 0.0
        weight = self.modulation.cross_weight if cross else self.modulation.self_weight
        return eq.strength(self._timestep, weight, self.modulation.power)

    def weight(self, image: int, maps: _Maps, *, cross: bool) -> Tensor:
        """The weight of each query of an image, (N, T) for cross-attention, else (N,); computed once in a step."""
        key = (image, len(maps.match), cross)
        if key not in self._weights:
            area, score = (maps.segments.area[:, None], maps.score) if cross else (maps.segments.area, 1.0)
            strength, clamp = self.strength(cross=cross), self.modulation.clamp_lambda
            self._weights[key] = eq.modulation_weight(strength, area, score, clamp=clamp)
        return self._weights[key]

    def cross_map(self, attn: Attention, image: int, query: Tensor, key: Tensor) -> Tensor:
        """As `plain_map`."""
        if image not in self.layouts or self.strength(cross=True) == 0:
            return plain_map(attn, image, query, key)
        maps = self.maps(image, query.shape[-2], query.device)
        return eq.modulated_map(query, key, maps.match, self.weight(image, maps, cross=True))

    def maps(self, image: int, queries: int, device: torch.device) -> _Maps:
        """The maps of one image for a layer with `queries` pixels, computed once."""
        if (image, queries) not in self._maps:
            self._maps[image, queries] = self._compute(self.layouts[image], queries, device)
        return self._maps[image, queries]

    def _compute(self, layout: Layout, queries: int, device: torch.device) -> _Maps:
        masks = eq.shrink(layout.masks.to(device), *cells_at(self._latents, queries)).flatten(1)
        tokens = layout.tokens.to(device)
        likelihoods = (
            layout.likelihoods.to(device) if self.modulation.use_likelihood else torch.ones(len(tokens), device=device)
        )
        elsewhere = 0.0 if self.modulation.only_phrase_tokens else 1.0
        return _Maps(eq.segments(masks), eq.token_match(masks, tokens), eq.token_score(tokens, likelihoods, elsewhere))


class _Modulated:
    """The processor of one layer of a transformer block; `stock` is the one it stands in for.

    Such blocks pass (B, N, C) and no attention mask, and have none of the norms and residuals of other blocks.
    """

    def __init__(self, control: _Control, stock: Callable[..., Tensor]) -> None:
        self._control = control
        self._stock = stock

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        cross = encoder_hidden_states is not None
        if self._control.strength(cross=cross) == 0:
            return self._stock(attn, hidden_states, encoder_hidden_states, attention_mask)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        attend = partial(self._attend, cross=cross)
        return attend_one_by_one(attn, hidden_states, context, self._control.batch, self._control.layouts, attend)

    def _attend(self, image: int, query: Tensor, key: Tensor, value: Tensor, *, cross: bool) -> Tensor:
        maps = self._control.maps(image, query.shape[-2], query.device)
        weight = self._control.weight(image, maps, cross=cross)
        if cross:
            return eq.modulated_attention(query, key, value, maps.match, weight)
        return eq.folded_self_attention(query, key, value, maps.segments, weight)
