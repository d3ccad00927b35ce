"""Stable Diffusion and XL made trainable by reward feedback learning: the steps from noise to pixels, a method each."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from realign_cli.errors import RealignError, RecordError, UsageError
from realign_cli.models.diffusion.lora import load_lora
from realign_cli.models.diffusion.stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.nn import Module, Parameter

    from realign_cli.roles import Conditioning, Request

_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
_TRAINED, _CHECKED = "default", "check"  # names of LoRA adapters


class TrainableStableDiffusion:
    """`roles.TrainableGenerator` around a loaded `StableDiffusion`: it trains its U-Net, or a LoRA of it.

    Args:
        generator: in float32, for the weights that are trained are master weights.
        steps: of the sampler during training, T of the paper.
        guidance: scale of classifier-free guidance during training; none at or below 1. Gradients flow through the
            conditional half only.
        rank: of the LoRA on the attention projections; 0 trains the whole U-Net.
        checkpointing: trade time for memory in the U-Net and the autoencoder.
        seed: of the LoRA's first weights.

    Raises:
        UsageError: it is no Stable Diffusion, or has a LoRA already.
    """

    def __init__(
        self, generator: StableDiffusion, *, steps: int, guidance: float, rank: int, checkpointing: bool, seed: int
    ) -> None:
        if not isinstance(generator, StableDiffusion):
            raise UsageError(f"a {type(generator).__name__} is not trained here; train a preset of Stable Diffusion")
        if getattr(generator.pipeline.unet, "peft_config", None):
            raise UsageError("generator.lora is a LoRA already, and would not be trained with it; train without")
        self._generator = generator
        self._pipeline: Any = generator.pipeline
        self._guidance = guidance
        self._scheduler = DDIMScheduler.from_config(self._pipeline.scheduler.config, clip_sample=False)
        assert not self._scheduler.config.clip_sample, "clipping x_0 of latents would cut the gradient"
        self._scheduler.set_timesteps(steps)
        self.steps = steps
        self.unet: Module = self._pipeline.unet
        self._parts = [part for part in self._pipeline.components.values() if isinstance(part, nn.Module)]
        for part in self._parts:
            part.requires_grad_(False)
        self._rank = rank
        if rank:
            config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=_ATTENTION)
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                self._pipeline.unet.add_adapter(config, _TRAINED)
        else:
            self.unet.requires_grad_(True)
        if checkpointing:
            self._pipeline.unet.enable_gradient_checkpointing()
            self._pipeline.vae.enable_gradient_checkpointing()

    def trainable_parameters(self) -> dict[str, Parameter]:
        return {name: weight for name, weight in self.unet.named_parameters() if weight.requires_grad}

    def embed(self, prompts: Sequence[str], framings: Tensor | None = None) -> Conditioning:
        return self._generator.embed(prompts, framings)

    def initial_noise(self, seeds: Sequence[int]) -> Tensor:
        return torch.stack([self._generator.initial_noise(seed) for seed in seeds])

    def denoise(
        self,
        latents: Tensor,
        prompts: Conditioning,
        start: int,
        stop: int,
        *,
        guided: bool = True,
        with_gradient: bool = False,
    ) -> Tensor:
        predict = self._guided if guided else self._conditional
        with torch.set_grad_enabled(with_gradient):
            for t in self._scheduler.timesteps[start:stop]:
                predicted = predict(latents, prompts, t)
                latents = self._scheduler.step(predicted, t, latents).prev_sample
        return latents

    def time(self, step: int) -> int:
        return int(self._scheduler.timesteps[step]) if step < self.steps else -1

    def alphas(self, times: Tensor) -> Tensor:
        known: Tensor = self._scheduler.alphas_cumprod.to(times.device)[times.clamp(min=0)]
        return torch.where(times < 0, 1.0, known)[:, None, None, None]

    def add_noise(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        noisy: Tensor = self._scheduler.add_noise(latents, noise, times)
        return noisy

    def predict_x0(self, latents: Tensor, prompts: Conditioning, times: Tensor, *, guided: bool = True) -> Tensor:
        predicted = (self._guided if guided else self._conditional)(latents, prompts, times)
        alphas = self.alphas(times).to(latents)
        kind = self._scheduler.config.prediction_type
        if kind == "sample":
            return predicted
        if kind == "v_prediction":
            return alphas.sqrt() * latents - (1 - alphas).sqrt() * predicted
        return (latents - (1 - alphas).sqrt() * predicted) / alphas.sqrt()

    def decode(self, latents: Tensor) -> Tensor:
        vae = self._pipeline.vae
        with self._vae_precision():
            return (vae.decode(latents.float() / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        vae = self._pipeline.vae
        inputs = pixels.to(vae.device, vae.dtype) * 2 - 1
        with self._vae_precision():
            return vae.encode(inputs).latent_dist.mean * vae.config.scaling_factor

    def _vae_precision(self) -> AbstractContextManager[None]:
        """Float32 where the autoencoder overflows in float16, as that of XL does; no other kind says it of its own."""
        overflows = isinstance(self._pipeline, StableDiffusionXLPipeline) and self._pipeline.vae.config.force_upcast
        return torch.autocast(self._pipeline.device.type, enabled=False) if overflows else nullcontext()

    def denoising_loss(self, latents: Tensor, prompts: Conditioning, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        length = self._scheduler.config.num_train_timesteps
        t = torch.randint(0, length, (len(latents),), generator=generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        predicted = self._conditional(self._scheduler.add_noise(latents, noise, t), prompts, t)
        target = self._target(latents, noise, t)
        return F.mse_loss(predicted.float(), target.float(), reduction="none").mean((1, 2, 3))

    def _target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network was trained to predict of `latents` with `noise` added at times `t`, as its scheduler says.

        With a = alphas_cumprod[t]: the noise ("epsilon"), sqrt(a) noise - sqrt(1 - a) latents ("v_prediction",
        Salimans & Ho 2022), or the latents ("sample").
        """
        kind = self._scheduler.config.prediction_type
        if kind == "v_prediction":
            velocity: Tensor = self._scheduler.get_velocity(latents, noise, t)
            return velocity
        return latents if kind == "sample" else noise

    def generate(self, requests: Sequence[Request]) -> list[Image | RecordError]:
        return self._generator.generate(requests)

    def saved_bytes(self) -> int:
        trained = self.trainable_parameters().values()
        weights = trained if self._rank else [weight for part in self._parts for weight in part.parameters()]
        return sum(weight.numel() * weight.element_size() for weight in weights)

    def save(self, folder: Path) -> None:
        if not self._rank:
            self._pipeline.save_pretrained(folder)
            saved = UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()
            _compare(saved, self.unet.state_dict(), folder)
            return
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.unet, adapter_name=_TRAINED))
        # Without peft's metadata: alpha is the rank, as is assumed where nothing is said, and the bytes are the same in
        # every process.
        self._pipeline.save_lora_weights(folder, layers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft's, of there being two adapters for a moment
            load_lora(self._pipeline, folder, _CHECKED)  # a wrong file loads as if it were nothing
            try:
                saved, trained = (get_peft_model_state_dict(self.unet, adapter_name=n) for n in (_CHECKED, _TRAINED))
                _compare(saved, trained, folder)
            finally:
                self._pipeline.delete_adapters(_CHECKED)
                self._pipeline.unet.set_adapter(_TRAINED)

    def _conditional(self, latents: Tensor, prompts: Conditioning, t: Tensor) -> Tensor:
        predicted: Tensor = self.unet(latents, t, **prompts.arguments).sample
        return predicted

    def _guided(self, latents: Tensor, prompts: Conditioning, t: Tensor) -> Tensor:
        conditional = self._conditional(latents, prompts, t)
        if self._guidance <= 1:
            return conditional
        with torch.no_grad():
            unconditional = self._conditional(latents, self._generator.unprompted(prompts), t)
        return unconditional + self._guidance * (conditional - unconditional)


def _compare(saved: dict[str, Tensor], trained: dict[str, Tensor], folder: Path) -> None:
    same = saved.keys() == trained.keys() and all(torch.equal(saved[k].cpu(), trained[k].cpu()) for k in trained)
    if not same:
        raise RealignError(f"{folder}: the saved weights do not load as those that were trained; they are not kept")
