"""Stable Diffusion 1.x as a `roles.Generator`, with the control of attention by regions and by phrases."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
import transformers
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from realign_cli.errors import RecordError, UsageError, first_line
from realign_cli.models.batches import in_full_batches
from realign_cli.models.diffusion.attention_control import Layout, modulated
from realign_cli.models.diffusion.latent_guidance import Guide, loss_of
from realign_cli.models.diffusion.lora import load_lora
from realign_cli.models.diffusion.phrase_tokens import PhraseTokens, phrase_tokens, prompt_length
from realign_cli.models.diffusion.regional import RegionTexts, regional
from realign_cli.models.diffusion.structure import Phrases, structured
from realign_cli.models.loading import silent
from realign_cli.roles import EXTRA_STEPS, Region, Request
from realign_cli.settings import Dense, LatentGuidance, PhraseControl, Regional, RegionControl, Structure

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)
_SMALL_VOCABULARY = 1000
_TEXTS_AT_ONCE = 8
_TEXTS_REMEMBERED = 256  # 60 MB for Stable Diffusion 1.x in float32
_PREDICTIONS = ("epsilon", "v_prediction", "sample")  # what DDIM can step by


class StableDiffusion:
    """Text to image by DDIM (eta 0) with classifier-free guidance.

    Args:
        checkpoint: a folder of a diffusers `StableDiffusionPipeline`, or a hub id.
        device: torch device; float32 on "cpu", else float16.
        steps: denoising steps.
        guidance: scale of classifier-free guidance; none at or below 1.
        size: height and width of the images in pixels, a multiple of 8.
        model_batch_size: images computed together, always as many, so that fewer requests cost as much; see
            `models.batches`.
        revision: commit of the hub id.
        lora: a folder with `pytorch_lora_weights.safetensors`, such as `realign train` makes.
        full_precision: float32 on any device, as training wants it.
        attention_slicing: compute attention head by head, for less memory.
        cpu_offload: keep on the GPU only the part that is computing; not for training.

    Raises:
        UsageError: the checkpoint or the LoRA cannot be loaded, or the network predicts what DDIM cannot step by.
    """

    _kind: Any = StableDiffusionPipeline
    _without: Mapping[str, Any] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }

    def __init__(
        self,
        checkpoint: str,
        *,
        device: str,
        steps: int,
        guidance: float,
        size: int,
        model_batch_size: int = 4,
        revision: str | None = None,
        lora: str | None = None,
        full_precision: bool = False,
        attention_slicing: bool = False,
        cpu_offload: bool = False,
    ) -> None:
        # Any: diffusers loads its classes lazily, untyped.
        self.pipeline: Any = self._load(checkpoint, device, revision, full_precision)
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
        self._size = size
        self._model_batch_size = model_batch_size
        self._known_words = _small_vocabulary(self.pipeline)
        self._warned: set[str] = set()
        self._cut: set[tuple[str, str]] = set()  # records and prompts that were said to be too long
        self._embeddings: dict[str, Tensor] = {}

    def generate(
        self, requests: Sequence[Request], control: RegionControl | PhraseControl | None = None
    ) -> list[Image | RecordError]:
        """One RGB image per request, or why there is none; regions and phrases count only with `control`."""
        for request in requests:
            self._warn_of_cut(request)
        return in_full_batches(
            requests, self._model_batch_size, lambda batch: self._generate(batch, control), Request("", 0)
        )

    def _generate(
        self, batch: Sequence[Request], control: RegionControl | PhraseControl | None
    ) -> list[Image | RecordError]:
        for request in batch:
            self._warn_of_unknown_words(request.prompt)
        embeddings = self.embed([request.prompt for request in batch])
        self.pipeline.scheduler.set_timesteps(self._steps)
        guide = self._guide(batch, embeddings, control) if isinstance(control, LatentGuidance) else None
        with self._controlled(batch, embeddings, control):
            return self._draw(
                batch,
                guide,
                prompt_embeds=embeddings,
                negative_prompt_embeds=self.embed([""]).expand(len(batch), -1, -1),
            )

    def _controlled(
        self, batch: Sequence[Request], embeddings: Tensor, control: RegionControl | PhraseControl | None
    ) -> AbstractContextManager[None]:
        """The block in which the UNet's attention is controlled; the prompts' `embeddings` may change."""
        unet, timesteps = self.pipeline.unet, self.pipeline.scheduler.timesteps
        if control is None or isinstance(control, LatentGuidance):
            return nullcontext()
        if isinstance(control, Structure):
            return structured(unet, embeddings, [self._alone(request) for request in batch], control.form)
        if isinstance(control, Regional):
            return regional(unet, [self._texts(request) for request in batch], control, timesteps, self._side)
        modulation = control.modulation if isinstance(control, Dense) else control
        found = [self._find(request) for request in batch]
        if modulation.splice_phrases:
            self._splice(embeddings, found)
        layouts = [_layout(own, embeddings.shape[1]) for own in found]
        if isinstance(control, Dense):
            layouts = [layout and layout.with_background() for layout in layouts]
        return modulated(unet, layouts, modulation, timesteps)

    def _guide(self, batch: Sequence[Request], embeddings: Tensor, control: LatentGuidance) -> Guide:
        """What moves the latents by the phrases of the requests."""
        losses = [
            loss_of(
                control,
                [found.words for found in self._phrases(request)],
                prompt_length(self.pipeline.tokenizer, request.prompt),
            )
            for request in batch
        ]
        return Guide(self.pipeline.unet, embeddings, losses, control, self.pipeline.scheduler.timesteps)

    def _draw(
        self, batch: Sequence[Request], guide: Guide | None = None, **conditioning: Tensor
    ) -> list[Image | RecordError]:
        """An image of each request, or an error where latents or pixels are no finite numbers."""
        last: dict[str, Tensor] = {}

        def after(_pipeline: Any, step: int, _time: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            if guide and step + 1 < self._steps:
                tensors["latents"] = guide(tensors["latents"], step + 1)
            last.update(tensors)
            return tensors

        noise = torch.stack([self.initial_noise(request.noise_seed) for request in batch])
        pixels = self.pipeline(
            **conditioning,
            latents=guide(noise, 0) if guide else noise,
            num_inference_steps=self._steps,
            guidance_scale=self._guidance,
            height=self._size,
            width=self._size,
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
        return drawn

    def _remedy(self) -> str:
        if self.pipeline.dtype == torch.float16:
            return "float16 overflowed: lower generator.guidance, or choose a checkpoint made for float16"
        return "lower generator.guidance, or check its checkpoint and LoRA"

    def _load(self, checkpoint: str, device: str, revision: str | None, full_precision: bool) -> Any:
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        try:
            pipeline = self._kind.from_pretrained(
                checkpoint,
                revision=revision,
                dtype=torch.float32 if full_precision or torch.device(device).type == "cpu" else torch.float16,
                use_safetensors=True,
                **self._without,
            )
            length, most = pipeline.tokenizer.model_max_length, pipeline.text_encoder.config.max_position_embeddings
            if length > most:  # as where its files are missing, which the libraries do not mind
                raise ValueError(f"its tokenizer goes up to {length} tokens and its text encoder to {most}")
        except Exception as error:  # of a damaged folder, libraries raise what they come upon first
            if Path(checkpoint).is_dir():
                raise UsageError(f"{checkpoint}: not a {self._kind.__name__} ({first_line(error)})") from None
            if not isinstance(error, OSError | ValueError):
                raise
            raise UsageError(
                f"generator {checkpoint}: no such folder, and it could not be fetched from the hub; "
                "check the name and the network, or use --preset tiny, which needs neither"
            ) from None
        predicted = getattr(pipeline.scheduler.config, "prediction_type", None)
        if predicted not in _PREDICTIONS:
            raise UsageError(
                f"generator {checkpoint}: its scheduler's prediction_type is {predicted}; "
                f"this program knows {', '.join(_PREDICTIONS)}"
            )
        # The sampler's habit of clipping x_0 to [-1, 1] is for pixels; latents go beyond.
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
        assert not pipeline.scheduler.config.clip_sample
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @property
    def _side(self) -> int:
        """Height and width of the latents."""
        side: int = self._size // self.pipeline.vae_scale_factor
        return side

    def initial_noise(self, seed: int) -> Tensor:
        """x_T of one image, drawn on the CPU so that it is the same on every device."""
        shape = (self.pipeline.unet.config.in_channels, self._side, self._side)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return noise.to(self.pipeline.device, self.pipeline.dtype)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Token embeddings (B, T, D) of B >= 1 texts.

        Each text is encoded once while it is remembered.
        """
        known = self._embeddings
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, in_full_batches(new, _TEXTS_AT_ONCE, self._encode, ""), strict=True))
        embeddings = torch.stack([known[text] for text in texts])
        for text in list(known)[:-_TEXTS_REMEMBERED]:
            del known[text]
        return embeddings

    def _encode(self, texts: list[str]) -> Tensor:
        device = self.pipeline.device
        # What is remembered is of full precision.
        with silent(), torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self.pipeline.encode_prompt(texts, device, 1, False)[0]

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

    def _ids(self, text: str) -> list[int]:
        return self.pipeline.tokenizer(text, truncation=True).input_ids

    def _find(self, request: Request) -> list[tuple[Region, list[slice]]]:
        """The regions to modulate, each with every place where its phrase stands among the prompt's tokens."""
        found = []
        for region in request.regions:
            if region.likelihood == 0:
                continue
            places = self._places(request.prompt, region.phrase)
            if places and region.mask.any():
                found.append((region, places))
            else:
                reason = "its mask is empty" if places else f"its tokens are not among those of '{request.prompt}'"
                log.warning("the region of '%s' is left alone: %s", region.phrase, reason)
        return found

    def _texts(self, request: Request) -> RegionTexts | None:
        """What the regions of a request read: their phrases, alone."""
        regions = [region for region in request.regions if region.mask.any()]
        if not regions:
            return None
        masks = torch.stack([torch.from_numpy(region.mask) for region in regions])
        return RegionTexts(masks, self.embed([region.phrase for region in regions]))

    def _phrases(self, request: Request) -> list[PhraseTokens]:
        """The phrases of a request that are read in full."""
        found, cut = phrase_tokens(self.pipeline.tokenizer, request.prompt, request.phrases)
        for text in cut:
            log.warning("record %s: '%s' is left alone, the generator does not read all of it", request.record, text)
        return found

    def _alone(self, request: Request) -> Phrases:
        """The phrases of two words or more as they are encoded alone, if in the same tokens, and their places."""
        ids = self._ids(request.prompt)
        longer = [own for own in self._phrases(request) if len(own.text.split()) > 1]
        found = [own for own in longer if self._ids(own.text)[1:-1] == ids[own.place]]
        alone = self.embed([own.text for own in found]) if found else ()
        return [(embedding, own.place) for embedding, own in zip(alone, found, strict=True)]

    def _places(self, prompt: str, phrase: str) -> list[slice]:
        ids, wanted = self._ids(prompt), self._ids(phrase)[1:-1]
        if not wanted or self.pipeline.tokenizer.unk_token_id in wanted:  # unknown words all look alike
            return []
        starts = range(1, len(ids) - len(wanted))
        return [slice(i, i + len(wanted)) for i in starts if ids[i : i + len(wanted)] == wanted]

    def _splice(self, embeddings: Tensor, found: Sequence[list[tuple[Region, list[slice]]]]) -> None:
        """Put the embedding of each phrase encoded alone over its places in its prompt's (T, D), in place."""
        phrases = [region.phrase for own in found for region, _ in own]
        alone = dict(zip(phrases, self.embed(phrases), strict=True)) if phrases else {}
        for embedding, own in zip(embeddings, found, strict=True):
            for region, places in own:
                for place in places:
                    embedding[place] = alone[region.phrase][1 : 1 + place.stop - place.start]

    def _warn_of_unknown_words(self, prompt: str) -> None:
        if not self._known_words:
            return
        for word in re.findall(r"\w+|[^\w\s]", prompt.lower()):
            if word not in self._warned and self.pipeline.tokenizer.unk_token_id in self._ids(word):
                self._warned.add(word)
                log.warning("the generator does not know '%s'; it knows: %s", word, " ".join(self._known_words))


def _layout(found: Sequence[tuple[Region, list[slice]]], length: int) -> Layout | None:
    if not found:
        return None
    tokens = torch.zeros(len(found), length, dtype=torch.bool)
    for row, (_, places) in zip(tokens, found, strict=True):
        for place in places:
            row[place] = True
    return Layout(
        masks=torch.stack([torch.from_numpy(region.mask) for region, _ in found]),
        tokens=tokens,
        likelihoods=torch.tensor([region.likelihood for region, _ in found]),
    )


def _small_vocabulary(pipeline: Any) -> list[str]:
    """The words of a toy model; empty for a vocabulary that can spell anything."""
    tokenizer = pipeline.tokenizer
    if len(tokenizer) >= _SMALL_VOCABULARY:
        return []
    special = set(tokenizer.all_special_tokens)
    return sorted(token.removesuffix("</w>") for token in tokenizer.get_vocab() if token not in special)
