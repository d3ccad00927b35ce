"""Record where images attend to the tokens of their prompts: `with recorded(unet, images, batch, cross_map) as sums:`.

A look before a layer computes, not a processor in its place: what the layer gives stays the same to the bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from realign_cli.equations.attention_maps import token_maps
from realign_cli.models.diffusion.attention_control import (
    Cells,
    cells_at,
    cells_of,
    query_and_key,
    reads_text,
)

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from realign_cli.models.diffusion.attention_control import CrossMap


class RunningSums:
    """Of each image one for each resolution, over layers and steps: 1.7 MB at the size of Stable Diffusion 1.x."""

    def __init__(self) -> None:
        self.latents: Cells = 0, 0
        self.sums: dict[int, dict[int, Tensor]] = {}  # image -> pixels N -> float32 (N, T)

    def add(self, image: int, attention: Tensor) -> None:
        """The attention (heads, N, T) of a layer, of which the mean over heads counts."""
        own, mean = self.sums.setdefault(image, {}), attention.mean(0)
        if len(mean) in own:
            own[len(mean)] += mean
        else:
            own[len(mean)] = mean

    def maps(self, image: int) -> Tensor:
        """`token_maps` (T, h, w) of an image that was recorded, in the largest resolution."""
        found = self.sums[image].items()
        return token_maps([own.T.unflatten(1, cells_at(self.latents, pixels)) for pixels, own in found])


@contextmanager
def recorded(
    unet: UNet2DConditionModel, images: Collection[int], batch: int, cross_map: CrossMap
) -> Iterator[RunningSums]:
    """Record the cross-attention of some images of a batch, by their numbers, until the block is left.

    All layers count but those of the middle block, as in DAAM, and all steps. The UNet may be called with the batch
    alone or with the unconditional half before it, which does not count.
    """
    sums = RunningSums()

    def look(_unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sums.latents = cells_of(args, kwargs)

    def read(attn: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():  # a look by which latents are moved, and no step
            return
        # All rows are multiplied, whichever images count: the last bits depend on how many there are.
        conditional = {"encoder_hidden_states": kwargs["encoder_hidden_states"][-batch:]}
        query, key = query_and_key(attn, (args[0][-batch:],), conditional)
        for image in images:
            sums.add(image, cross_map(attn, image, query[image], key[image]))

    with ExitStack() as stack:
        if images:
            stack.callback(unet.register_forward_pre_hook(look, with_kwargs=True).remove)
        for name, module in unet.named_modules() if images else ():
            if reads_text(module) and not name.startswith("mid_block."):
                stack.callback(module.register_forward_pre_hook(read, with_kwargs=True).remove)
        yield sums
