"""Stable Diffusion made trainable by reward feedback learning: the steps from noise to pixels, one method each."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from realign_cli.errors import RealignError, RecordError, UsageError
from realign_cli.models.diffusion.lora import load_lora

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.nn import Module, Parameter

    from realign_cli.models.diffusion.stable_diffusion import StableDiffusion
    from realign_cli.roles import Request

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
        UsageError: it is no Stable Diffusion 1.x or 2.x.
    """

    def __init__(
        self, generator: StableDiffusion, *, steps: int, guidance: float, rank: int, checkpointing: bool, seed: int
    ) -> None:
        if not isinstance(generator.pipeline, StableDiffusionPipeline):
            raise UsageError(
                f"a {type(generator.pipeline).__name__} is not trained here; train a preset of Stable Diffusion 1.x"
            )
        self._generator = generator
        self._pipeline: Any = generator.pipeline
        self._guidance = guidance
        self._scheduler = type(self._pipeline.scheduler).from_config(self._pipeline.scheduler.config)
        assert not self._scheduler.config.clip_sample, "clipping x_0 of latents would cut the gradient"
        self._scheduler.set_timesteps(steps)
        self.steps = steps
        self.unet: Module = self._pipeline.unet
        for part in (self._pipeline.unet, self._pipeline.vae, self._pipeline.text_encoder):
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

    def embed(self, prompts: Sequence[str]) -> Tensor:
        return self._generator.embed(prompts)

    def initial_noise(self, seeds: Sequence[int]) -> Tensor:
        return torch.stack([self._generator.initial_noise(seed) for seed in seeds])

    def denoise(
        self,
        latents: Tensor,
        embeddings: Tensor,
        start: int,
        stop: int,
        *,
        guided: bool = True,
        with_gradient: bool = False,
    ) -> Tensor:
        predict = self._guided if guided else self._conditional
        with torch.set_grad_enabled(with_gradient):
            for t in self._scheduler.timesteps[start:stop]:
                predicted = predict(latents, embeddings, t)
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

    def predict_x0(self, latents: Tensor, embeddings: Tensor, times: Tensor, *, guided: bool = True) -> Tensor:
        predicted = (self._guided if guided else self._conditional)(latents, embeddings, times)
        alphas = self.alphas(times).to(latents)
        kind = self._scheduler.config.prediction_type
        if kind == "sample":
            return predicted
        if kind == "v_prediction":
            return alphas.sqrt() * latents - (1 - alphas).sqrt() * predicted
        return (latents - (1 - alphas).sqrt() * predicted) / alphas.sqrt()

    def decode(self, latents: Tensor) -> Tensor:
        vae = self._pipeline.vae
        return (vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        vae = self._pipeline.vae
        inputs = pixels.to(vae.device, vae.dtype) * 2 - 1
        return vae.encode(inputs).latent_dist.mean * vae.config.scaling_factor

    def denoising_loss(self, latents: Tensor, embeddings: Tensor, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        length = self._scheduler.config.num_train_timesteps
        t = torch.randint(0, length, (len(latents),), generator=generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        predicted = self._conditional(self._scheduler.add_noise(latents, noise, t), embeddings, t)
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
        parts = (self._pipeline.unet, self._pipeline.vae, self._pipeline.text_encoder)
        weights = (
            self.trainable_parameters().values() if self._rank else [w for part in parts for w in part.parameters()]
        )
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

    def _conditional(self, latents: Tensor, embeddings: Tensor, t: Tensor) -> Tensor:
        predicted: Tensor = self.unet(latents, t, embeddings).sample
        return predicted

    def _guided(self, latents: Tensor, embeddings: Tensor, t: Tensor) -> Tensor:
        conditional = self._conditional(latents, embeddings, t)
        if self._guidance <= 1:
            return conditional
        with torch.no_grad():
            blank = self._generator.embed([""]).expand_as(embeddings)
            unconditional = self._conditional(latents, blank, t)
        return unconditional + self._guidance * (conditional - unconditional)


def _compare(saved: dict[str, Tensor], trained: dict[str, Tensor], folder: Path) -> None:
    same = saved.keys() == trained.keys() and all(torch.equal(saved[k].cpu(), trained[k].cpu()) for k in trained)
    if not same:
        raise RealignError(f"{folder}: the saved weights do not load as those that were trained; they are not kept")
