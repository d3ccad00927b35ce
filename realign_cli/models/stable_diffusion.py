"""Stable Diffusion 1.x as a `roles.Generator`, with the attention modulation of the fine stage."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
import transformers
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL.Image import Image
from torch import Tensor

from realign_cli.errors import UsageError
from realign_cli.models.attention_control import Layout, modulated
from realign_cli.models.batches import in_full_batches
from realign_cli.roles import Modulation, Region, Request

if TYPE_CHECKING:
    from realign_cli.models.trainee import Trainee

log = logging.getLogger(__name__)

_SMALL_VOCABULARY = 1000
_TEXTS_AT_ONCE = 8
_TEXTS_REMEMBERED = 256  # 60 MB for Stable Diffusion 1.x in float32


class StableDiffusion:
    """Text to image by DDIM (eta 0) with classifier-free guidance.

    Args:
        checkpoint: a folder of a diffusers `StableDiffusionPipeline`, or a hub id.
        device: torch device; float32 on "cpu", else float16.
        steps: denoising steps.
        guidance: scale of classifier-free guidance; none at or below 1.
        size: height and width of the images in pixels, a multiple of 8.
        batch_size: images computed together, always as many, so that fewer requests cost as much; see `models.batches`.
        revision: commit of the hub id.
        lora: a folder with `pytorch_lora_weights.safetensors`, such as `realign train` makes.
        full_precision: float32 on any device, as training wants it.
        attention_slicing: compute attention head by head, for less memory.
        cpu_offload: keep on the GPU only the part that is computing; not for training.

    Raises:
        UsageError: the checkpoint cannot be loaded, or `size` is not a multiple of 8.
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
        batch_size: int = 4,
        revision: str | None = None,
        lora: str | None = None,
        full_precision: bool = False,
        attention_slicing: bool = False,
        cpu_offload: bool = False,
    ) -> None:
        if size % 8:
            raise UsageError(f"generator.size is {size}; it must be a multiple of 8")
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
        self._steps = steps
        self._guidance = guidance
        self._size = size
        self._batch_size = batch_size
        self._known_words = _small_vocabulary(self.pipeline)
        self._warned: set[str] = set()
        self._embeddings: dict[str, Tensor] = {}

    def generate(self, requests: Sequence[Request], modulation: Modulation | None = None) -> list[Image]:
        """One RGB image per request; regions count only with `modulation`. See `roles.Generator`."""
        return in_full_batches(
            requests, self._batch_size, lambda batch: self._generate(batch, modulation), Request("", 0)
        )

    def trainee(self, *, steps: int, guidance: float, rank: int, checkpointing: bool, seed: int) -> Trainee:
        """This model opened for training; see `Trainee`. It goes on generating, by the weights as they change."""
        from realign_cli.models.trainee import Trainee

        return Trainee(self, steps=steps, guidance=guidance, rank=rank, checkpointing=checkpointing, seed=seed)

    def _generate(self, batch: Sequence[Request], modulation: Modulation | None) -> list[Image]:
        pipeline = self.pipeline
        self._warn(request.prompt for request in batch)
        embeddings = self.embed([request.prompt for request in batch])
        layouts: list[Layout | None] = []
        if modulation is not None:
            found = [self._find(request) for request in batch]
            layouts = [_layout(own, embeddings.shape[1]) for own in found]
            if modulation.splice:
                self._splice(embeddings, found)
        pipeline.scheduler.set_timesteps(self._steps)
        timesteps = pipeline.scheduler.timesteps
        with modulated(pipeline.unet, layouts, modulation, timesteps) if modulation is not None else nullcontext():
            return pipeline(
                prompt_embeds=embeddings,
                negative_prompt_embeds=self.embed([""]).expand(len(batch), -1, -1),
                latents=torch.stack([self.noise(request.noise_seed) for request in batch]),
                num_inference_steps=self._steps,
                guidance_scale=self._guidance,
                height=self._size,
                width=self._size,
            ).images

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
        except (OSError, ValueError) as error:
            if Path(checkpoint).is_dir():
                raise UsageError(f"{checkpoint}: not a {self._kind.__name__} ({_first_line(error)})") from None
            raise UsageError(
                f"generator {checkpoint}: no such folder, and not to be had from the hub; "
                "check the name and the network, or use --preset tiny, which needs neither"
            ) from None
        # The sampler's habit of clipping x_0 to [-1, 1] is for pixels; latents go beyond.
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
        assert not pipeline.scheduler.config.clip_sample
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def noise(self, seed: int) -> Tensor:
        """x_T of one image, drawn on the CPU so that it is the same on every device."""
        side = self._size // self.pipeline.vae_scale_factor
        shape = (self.pipeline.unet.config.in_channels, side, side)
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
        with hushed(), torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self.pipeline.encode_prompt(texts, device, 1, False)[0]

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

    def _warn(self, prompts: Iterable[str]) -> None:
        """Say once of each prompt what the model does not see of it, and of each word that it does not know it."""
        for prompt in prompts:
            if unseen := self._unseen(prompt):
                self._warn_once(prompt, "of '%s' the generator does not see the end, '%s'", prompt, unseen)
            for word in re.findall(r"\w+|[^\w\s]", prompt.lower()) if self._known_words else []:
                if self.pipeline.tokenizer.unk_token_id in self._ids(word):
                    known = " ".join(self._known_words)
                    self._warn_once(word, "the generator does not know '%s'; it knows: %s", word, known)

    def _warn_once(self, of: str, *message: str) -> None:
        if of not in self._warned:
            self._warned.add(of)
            log.warning(*message)

    def _unseen(self, prompt: str) -> str:
        """The end of a prompt that has more tokens than the model reads."""
        tokenizer = self.pipeline.tokenizer
        ends = tokenizer(prompt, return_offsets_mapping=True, verbose=False).offset_mapping
        last = tokenizer.model_max_length - 2  # the first and the last place are those of the start and end tokens
        return prompt[ends[last][1] :].strip() if len(ends) > last + 2 else ""


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


@contextmanager
def hushed() -> Iterator[None]:
    """Inside, diffusers and transformers say nothing but errors, whether or not -q was given."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, verbosity in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)


def load_lora(pipeline: Any, folder: str | Path, adapter: str | None = None) -> None:
    """Load a LoRA of the U-Net; that there is none of the text encoder is no news."""
    with hushed():
        pipeline.load_lora_weights(folder, adapter_name=adapter)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _small_vocabulary(pipeline: Any) -> list[str]:
    """The words of a toy model; empty for a vocabulary that can spell anything."""
    tokenizer = pipeline.tokenizer
    if len(tokenizer) >= _SMALL_VOCABULARY:
        return []
    special = set(tokenizer.all_special_tokens)
    return sorted(token.removesuffix("</w>") for token in tokenizer.get_vocab() if token not in special)
