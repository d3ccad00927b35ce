"""Move latents down a loss of their cross-attention: Attend-and-Excite, SynGen and Predicated Diffusion.

One engine: the attention of a conditional pass is read where the latents were halved `map_level` times; the pass ends
there, the loss of these maps is differentiated, and the latents go along the gradient before the sampler's step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from realign_cli.equations import binding as eq
from realign_cli.equations.attention import plain_map
from realign_cli.errors import UsageError
from realign_cli.models.diffusion.attention_control import cells_at, query_and_key, reads_text
from realign_cli.settings import Attend, Predicated, SynGen

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from realign_cli.roles import Conditioning
    from realign_cli.settings import LatentGuidance

Loss = Callable[[Tensor], Tensor]  # of maps (T, h, w)

_HALF_SCALE = 256  # of the loss in float16, whose smallest numbers the gradient would else fall below


def loss_of(control: LatentGuidance, phrases: Sequence[eq.Binding], length: int) -> Loss | None:
    """The loss of one image by the phrases of its prompt, which has `length` tokens; None where they say nothing."""
    modified = [phrase for phrase in phrases if phrase.modifiers]
    if isinstance(control, SynGen):
        return (lambda maps: eq.syngen_loss(maps, modified, range(1, length + 1))) if modified else None
    if not phrases:
        return None
    if isinstance(control, Predicated):
        return lambda maps: eq.predicated_loss(maps, phrases, control.existence_weight, control.foreign_weight)
    return lambda maps: eq.attend_loss(maps, phrases)


class Guide:
    """Moves the latents of a batch, step by step. An image without a loss stays as it is, to the bit.

    Args:
        unet: the denoiser.
        prompts: what it is told of them.
        losses: of each image.
        control: the method's numbers.
        timesteps: those of the whole run, first to last.

    Raises:
        UsageError: no layer reads the prompt at the level of the control.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        prompts: Conditioning,
        losses: Sequence[Loss | None],
        control: LatentGuidance,
        timesteps: Tensor,
    ) -> None:
        self._unet, self._prompts, self._losses, self._control = unet, prompts, losses, control
        self._timesteps = timesteps
        self._layers = _layers(unet, control)
        self._guided = torch.tensor([loss is not None for loss in losses])
        steps = len(timesteps)
        self._steps = round(control.step_fraction * steps) if self._guided.any() else 0
        pairs = control.thresholds if isinstance(control, Attend) else ()
        self._thresholds = {round(share * steps): wanted for share, wanted in pairs}
        self.updates = [0] * len(losses)  # of each image so far

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """The latents (B, C, h, w) with which to take a step, counted from 0."""
        if step >= self._steps:
            return latents
        losses, gradient = self.look(latents, step)
        if step in self._thresholds and isinstance(self._control, Attend):
            for _ in range(self._control.refinements):
                neglected = self._guided & (losses.cpu() > 1 - self._thresholds[step])
                if not neglected.any():
                    break
                latents = self._move(latents, gradient, step, neglected)
                losses, gradient = self.look(latents, step)
        return self._move(latents, gradient, step, self._guided)

    def look(self, latents: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The loss of each image (B,), 0 where there is none, and its gradient to the latents (B, C, h, w), float32."""
        scale = _HALF_SCALE if latents.dtype == torch.float16 else 1
        with torch.enable_grad(), _repeatable():
            moving = latents.detach().requires_grad_()
            maps = self.maps(moving, step)
            none = maps.new_zeros(())
            losses = torch.stack([loss(own) if loss else none for loss, own in zip(self._losses, maps, strict=True)])
            (gradient,) = torch.autograd.grad(losses.sum() * scale, moving)
        return losses.detach(), gradient.float() / scale

    def maps(self, latents: Tensor, step: int) -> Tensor:
        """The cross-attention at the level, float32 (B, T, h, w), a mean over layers and heads; it ends the pass."""
        found: list[Tensor] = []
        with suppress(_ReadAll), _read(self._layers, found):
            self._unet(latents, self._timesteps[step], **self._prompts.arguments)
        maps = torch.stack(found).mean(0).transpose(1, 2)
        height, width = latents.shape[-2:]
        return maps.unflatten(2, cells_at((height, width), maps.shape[2]))

    def _move(self, latents: Tensor, gradient: Tensor, step: int, moved: Tensor) -> Tensor:
        size = eq.step_size(self._control.step_size, self._control.step_decay, step, len(self._timesteps))
        self.updates = [count + one for count, one in zip(self.updates, moved.tolist(), strict=True)]
        there = (latents.float() - size * gradient).to(latents.dtype)
        return torch.where(moved.to(latents.device)[:, None, None, None], there, latents)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Gradients come out the same every time, where a GPU has a way to; by default it adds numbers in any order."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


class _ReadAll(Exception):
    """The last layer has been read, and nothing after it is needed."""


def _layers(unet: UNet2DConditionModel, control: LatentGuidance) -> list[nn.Module]:
    """The layers of cross-attention at a level, in the order in which a pass comes to them."""
    blocks: list[list[Any]] = [[block] for block in unet.down_blocks]
    blocks[-1].append(unet.mid_block)
    for own, block in zip(reversed(blocks), unet.up_blocks, strict=True):
        own.append(block)
    layers = {
        level: found
        for level, own in enumerate(blocks)
        if (found := [module for block in own for module in block.modules() if reads_text(module)])
    }
    if control.map_level not in layers:
        raise UsageError(
            f"{control.section}.map_level is {control.map_level}: the generator reads the prompt at levels "
            + ", ".join(map(str, layers))
        )
    return layers[control.map_level]


@contextmanager
def _read(layers: Sequence[nn.Module], found: list[Tensor]) -> Iterator[None]:
    """Before each of `layers` computes, its attention (B, N, T), a mean over heads, goes into `found`."""

    def read(attn: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        found.append(plain_map(*query_and_key(attn, args, kwargs)).mean(1))
        if attn is layers[-1]:
            raise _ReadAll

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(read, with_kwargs=True).remove)
        yield
