"""A diffusers pipeline as a `roles.Generator`: what all of them share, whatever reads the prompt."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
import transformers
from torch import Tensor

from realign_cli.errors import RecordError, UsageError, first_line
from realign_cli.models.batches import in_full_batches
from realign_cli.models.diffusion import schedulers
from realign_cli.models.diffusion.attention_control import plain_map
from realign_cli.models.diffusion.attention_maps import recorded
from realign_cli.models.diffusion.lora import load_lora
from realign_cli.models.diffusion.phrase_tokens import span_tokens
from realign_cli.models.diffusion.single_file import is_single_file, load_single_file
from realign_cli.roles import ATTENTION_MAPS, EXTRA_STEPS, Request
from realign_cli.settings import image_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from realign_cli.models.diffusion.attention_control import CrossMap
    from realign_cli.models.diffusion.latent_guidance import Guide
    from realign_cli.roles import Span
    from realign_cli.settings import PhraseControl, RegionControl

log = logging.getLogger(__name__)


class PipelineGenerator(ABC):
    """Text to image by a deterministic sampler with classifier-free guidance.

    Args:
        checkpoint: a folder of a diffusers pipeline, a hub id, or one `.safetensors` file with all of its weights.
        device: torch device; float32 on "cpu", else float16.
        steps: denoising steps.
        guidance: scale of classifier-free guidance; none at or below 1.
        size: of the images in pixels, "WIDTHxHEIGHT" or one number for both, in multiples of 8.
        model_batch_size: images computed together, always as many, so that fewer requests cost as much; see
            `models.batches`.
        revision: commit of the hub id.
        config: of a checkpoint in one file: the name of an architecture, or a folder or hub id that has its
            configuration; "" is what the file shows. See `models.diffusion.single_file`.
        scheduler: the sampler, see `models.diffusion.schedulers`.
        lora: a `.safetensors` file, or a folder with `pytorch_lora_weights.safetensors`, as `realign train` makes it.
        full_precision: float32 on any device, as training wants it.
        attention_slicing: compute attention head by head, for less memory.
        cpu_offload: keep on the GPU only the part that is computing; not for training.

    Raises:
        UsageError: the checkpoint or the LoRA cannot be loaded, or the sampler does not go with it.
    """

    _kind: Any  # the class of the pipeline
    _without: Mapping[str, Any]  # its parts that are not loaded

    def __init__(
        self,
        checkpoint: str,
        *,
        device: str,
        steps: int,
        guidance: float,
        size: int | str,
        model_batch_size: int = 4,
        revision: str | None = None,
        config: str = "",
        scheduler: str = "ddim",
        lora: str | None = None,
        full_precision: bool = False,
        attention_slicing: bool = False,
        cpu_offload: bool = False,
    ) -> None:
        # Any: diffusers loads its classes lazily, untyped.
        dtype = torch.float32 if full_precision or torch.device(device).type == "cpu" else torch.float16
        self.pipeline: Any = self._load(checkpoint, revision, config, dtype)
        self.pipeline.scheduler = schedulers.scheduler(scheduler, self.pipeline.scheduler)
        if lora:
            load_lora(self.pipeline, lora)
        if attention_slicing:
            self.pipeline.enable_attention_slicing()
        if cpu_offload and not full_precision and torch.device(device).type != "cpu":
            self.pipeline.enable_model_cpu_offload(device=device)
        else:
            self.pipeline.to(device)
        self.pipeline.unet.requires_grad_(False)  # else a gradient to the latents keeps what one to the weights needs
        self._steps = steps
        self._guidance = guidance
        self._size = image_size(size)
        self._model_batch_size = model_batch_size
        self._cut: set[tuple[str, str]] = set()  # records and prompts that were said to be too long

    def generate(
        self, requests: Sequence[Request], control: RegionControl | PhraseControl | None = None
    ) -> list[Image | RecordError]:
        """One RGB image per request, or why there is none; regions and phrases count only with `control`."""
        for request in requests:
            self._warn_of_cut(request)
        return in_full_batches(
            requests, self._model_batch_size, lambda batch: self._generate(batch, control), Request("", 0)
        )

    @abstractmethod
    def _generate(
        self, batch: Sequence[Request], control: RegionControl | PhraseControl | None
    ) -> list[Image | RecordError]:
        """An image of each request of a full batch, by `_draw`."""

    def _draw(
        self,
        batch: Sequence[Request],
        guide: Guide | None,
        cross_map: CrossMap | None,
        conditioning: Mapping[str, Tensor],
    ) -> list[Image | RecordError]:
        """An image of each request, or an error where latents or pixels are no finite numbers.

        `cross_map` says how cross-attention is controlled, if it is, for the maps of requests that ask for some;
        `conditioning` are the embeddings, as arguments of the pipeline.
        """
        last: dict[str, Tensor] = {}

        def after(_pipeline: Any, step: int, _time: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            if guide and step + 1 < self._steps:
                tensors["latents"] = guide(tensors["latents"], step + 1)
            last.update(tensors)
            return tensors

        width, height = self._size
        noise = torch.stack([self.initial_noise(request.noise_seed) for request in batch])
        mapped = [i for i, request in enumerate(batch) if request.mapped]
        with recorded(self.pipeline.unet, mapped, len(batch), cross_map or plain_map) as sums:
            pixels = self.pipeline(
                **conditioning,
                latents=guide(noise, 0) if guide else noise,
                num_inference_steps=self._steps,
                guidance_scale=self._guidance,
                height=height,
                width=width,
                output_type="pt",
                callback_on_step_end=after,
            ).images
        processor = self.pipeline.image_processor
        drawn: list[Image | RecordError] = []
        for latents, image in zip(last["latents"], pixels, strict=True):
            if latents.isfinite().all() and image.isfinite().all():
                drawn += processor.numpy_to_pil(processor.pt_to_numpy(image[None]))
            else:
                drawn.append(RecordError("not_finite", f"the generator gave no finite numbers; {self._remedy()}"))
        if guide:
            # Forward and backward as far as they go cost about one whole evaluation of the UNet, of which a step with
            # guidance has two.
            in_steps = 0.5 if self._guidance > 1 else 1
            for made, updates in zip(drawn, guide.updates, strict=True):
                if not isinstance(made, RecordError):
                    made.info[EXTRA_STEPS] = updates * in_steps
        for i in mapped:
            if not isinstance(made := drawn[i], RecordError):
                made.info[ATTENTION_MAPS] = self._maps(batch[i], sums.maps(i))
        return drawn

    def _maps(self, request: Request, maps: Tensor) -> dict[Span, NDArray[np.float32]]:
        """The maps of the places that a request asks for, of those of all tokens (T, h, w)."""
        found = {}
        words = span_tokens(self.pipeline.tokenizer, request.prompt, request.mapped)
        for span, tokens in zip(request.mapped, words, strict=True):
            if tokens:
                found[span] = maps[list(tokens)].sum(0).cpu().numpy()
            else:
                text = request.prompt[slice(*span)]
                log.warning("record %s: '%s' has no map, the generator does not read all of it", request.record, text)
        return found

    def _remedy(self) -> str:
        if self.pipeline.dtype == torch.float16:
            return "float16 overflowed: lower generator.guidance, or choose a checkpoint made for float16"
        return "lower generator.guidance, or check its checkpoint and LoRA"

    def _load(self, checkpoint: str, revision: str | None, config: str, dtype: torch.dtype) -> Any:
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        try:
            if is_single_file(checkpoint):
                pipeline = load_single_file(self._kind, checkpoint, config, dtype, self._without)
            else:
                pipeline = self._kind.from_pretrained(
                    checkpoint, revision=revision, dtype=dtype, use_safetensors=True, **self._without
                )
            length, most = pipeline.tokenizer.model_max_length, pipeline.text_encoder.config.max_position_embeddings
            if length > most:  # as where its files are missing, which the libraries do not mind
                raise ValueError(f"its tokenizer goes up to {length} tokens and its text encoder to {most}")
        except UsageError:
            raise
        except Exception as error:  # of a damaged folder, libraries raise what they come upon first
            if Path(checkpoint).is_dir():
                raise UsageError(f"{checkpoint}: not a {self._kind.__name__} ({first_line(error)})") from None
            if not isinstance(error, OSError | ValueError):
                raise
            raise UsageError(
                f"generator {checkpoint}: no such folder, and it could not be fetched from the hub; "
                "check the name and the network, or use --preset tiny, which needs neither"
            ) from None
        if (read := pipeline.unet.config.in_channels) != (drawn := pipeline.vae.config.latent_channels):
            raise UsageError(
                f"generator {checkpoint}: its U-Net reads {read} channels and draws {drawn}, as for inpainting; give a "
                "text-to-image model"
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def initial_noise(self, seed: int) -> Tensor:
        """x_T of one image, drawn on the CPU so that it is the same on every device."""
        width, height = (side // self.pipeline.vae_scale_factor for side in self._size)
        shape = (self.pipeline.unet.config.in_channels, height, width)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return noise.to(self.pipeline.device, self.pipeline.dtype)

    def _warn_of_cut(self, request: Request) -> None:
        """Say once of each record what of its prompt is beyond the tokens that the generator reads."""
        tokenizer = self.pipeline.tokenizer
        length = tokenizer.model_max_length
        ids = tokenizer(request.prompt, verbose=False).input_ids
        if len(ids) > length and (request.record, request.prompt) not in self._cut:
            self._cut.add((request.record, request.prompt))
            log.warning(
                "record %s: the generator reads %d tokens of the prompt's %d; it does not see '%s'",
                request.record or f"'{request.prompt}'",
                length,
                len(ids),
                tokenizer.decode(ids[length - 1 : -1]),
            )
