"""Stable Diffusion 1.x and 2.x as a `roles.Generator`, with the control of attention by regions and by phrases."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from realign_cli.errors import UsageError
from realign_cli.models.batches import in_full_batches
from realign_cli.models.diffusion.attention_control import Layout, modulated
from realign_cli.models.diffusion.latent_guidance import Guide, loss_of
from realign_cli.models.diffusion.phrase_tokens import PhraseTokens, phrase_tokens, prompt_length
from realign_cli.models.diffusion.pipeline import PipelineGenerator
from realign_cli.models.diffusion.regional import RegionTexts, readings_of, regional
from realign_cli.models.diffusion.structure import Phrases, structured
from realign_cli.models.loading import silent
from realign_cli.roles import Conditioning
from realign_cli.settings import Dense, LatentGuidance, PhraseControl, Regional, RegionControl, Structure

if TYPE_CHECKING:
    from PIL.Image import Image

    from realign_cli.errors import RecordError
    from realign_cli.models.diffusion.attention_control import CrossMap
    from realign_cli.roles import Region, Request

log = logging.getLogger(__name__)
_SMALL_VOCABULARY = 1000
_TEXTS_AT_ONCE = 8
_TEXTS_REMEMBERED = 256  # 60 MB for Stable Diffusion 1.x in float32, 160 for XL


class StableDiffusion(PipelineGenerator):
    """Stable Diffusion 1.x and 2.x: one text encoder, and control of attention by regions and by phrases."""

    _kind: Any = StableDiffusionPipeline
    _without: Mapping[str, Any] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }

    @cached_property
    def _known_words(self) -> list[str]:
        return _small_vocabulary(self.pipeline)

    @cached_property
    def _warned(self) -> set[str]:
        return set()  # words that were said to be unknown

    @cached_property
    def _embeddings(self) -> dict[str, tuple[Tensor, ...]]:
        return {}  # of texts, while they are remembered: of tokens (T, D), and pooled ones (P,) where there are any

    def _generate(
        self, batch: Sequence[Request], control: RegionControl | PhraseControl | None
    ) -> list[Image | RecordError]:
        for request in batch:
            self._warn_of_unknown_words(request.prompt)
        prompts = self.embed([request.prompt for request in batch])
        self.pipeline.scheduler.set_timesteps(self._steps)
        guide = self._guide(batch, prompts, control) if isinstance(control, LatentGuidance) else None
        with self._controlled(batch, prompts.tokens, control) as cross_map:
            return self._draw(batch, guide, cross_map, self._arguments(prompts, self.unprompted(prompts)))

    def _controlled(
        self, batch: Sequence[Request], embeddings: Tensor, control: RegionControl | PhraseControl | None
    ) -> AbstractContextManager[CrossMap | None]:
        """The block in which the UNet's attention is controlled; the prompts' `embeddings` may change.

        Gives what says how cross-attention is controlled, None where it is not.
        """
        unet, timesteps = self.pipeline.unet, self.pipeline.scheduler.timesteps
        if control is None or isinstance(control, LatentGuidance):
            return nullcontext()
        if isinstance(control, Structure):
            return structured(unet, embeddings, [self._alone(request) for request in batch], control.form)
        if isinstance(control, Regional):
            return regional(unet, [self._texts(request) for request in batch], control, timesteps)
        modulation = control.modulation if isinstance(control, Dense) else control
        found = [self._find(request) for request in batch]
        if modulation.splice_phrases:
            self._splice(embeddings, found)
        layouts = [_layout(own, embeddings.shape[1]) for own in found]
        if isinstance(control, Dense):
            layouts = [layout and layout.with_background() for layout in layouts]
        return modulated(unet, layouts, modulation, timesteps)

    def _guide(self, batch: Sequence[Request], prompts: Conditioning, control: LatentGuidance) -> Guide:
        """What moves the latents by the phrases of the requests."""
        if not isinstance(self.pipeline.scheduler, DDIMScheduler):
            raise UsageError(
                f"the method {control.section} moves latents between steps of ddim, and no other scheduler would take "
                "note: --set generator.scheduler=ddim"
            )
        losses = [
            loss_of(
                control,
                [found.words for found in self._phrases(request)],
                prompt_length(self.pipeline.tokenizer, request.prompt),
            )
            for request in batch
        ]
        return Guide(self.pipeline.unet, prompts, losses, control, self.pipeline.scheduler.timesteps)

    def embed(self, texts: Sequence[str], framings: Tensor | None = None) -> Conditioning:
        """What the U-Net is told of B >= 1 texts; `framings` are as of `roles.TrainableGenerator`.

        Each text is encoded once while it is remembered.
        """
        known = self._embeddings
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, in_full_batches(new, _TEXTS_AT_ONCE, self._encode, ""), strict=True))
        tokens, *pooled = map(torch.stack, zip(*(known[text] for text in texts), strict=True))
        for text in list(known)[:-_TEXTS_REMEMBERED]:
            del known[text]
        return Conditioning(tokens, self._added(pooled, framings))

    def unprompted(self, prompts: Conditioning) -> Conditioning:
        """What the U-Net is told in the half of classifier-free guidance that has no prompts."""
        return Conditioning(self.embed([""]).tokens.expand_as(prompts.tokens))

    def _added(self, pooled: Sequence[Tensor], framings: Tensor | None) -> Mapping[str, Tensor]:
        """What it is told beside the embeddings of tokens."""
        return {}

    def _arguments(self, prompts: Conditioning, blank: Conditioning) -> dict[str, Tensor]:
        """Both as arguments of the pipeline."""
        return {"prompt_embeds": prompts.tokens, "negative_prompt_embeds": blank.tokens}

    def _encode(self, texts: list[str]) -> list[tuple[Tensor, ...]]:
        device = self.pipeline.device
        # What is remembered is of full precision.
        with silent(), torch.no_grad(), torch.autocast(device.type, enabled=False):
            tokens, _, *pooled = self.pipeline.encode_prompt(
                texts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        return list(zip(tokens, *pooled[:1], strict=True))

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
        """What the regions of a request read: the prompt, in which all other phrases gave way to their own.

        So each reads of its own thing, and of as many things as the prompt: reading of one alone, the model draws one.
        """
        regions = [region for region in request.regions if region.mask.any()]
        if not regions:
            return None
        masks = torch.stack([torch.from_numpy(region.mask) for region in regions])
        phrases = [region.phrase for region in regions]
        texts = [_about_one(request.prompt, phrase, phrases) for phrase in phrases]
        embeddings = self.embed(texts).tokens
        end = prompt_length(self.pipeline.tokenizer, request.prompt) + 1
        readings = [
            readings_of(self._counted(text, phrase, request.prompt, phrases), end, embeddings.shape[1])
            for text, phrase in zip(texts, phrases, strict=True)
        ]
        return RegionTexts(masks, embeddings, torch.stack(readings))

    def _counted(self, text: str, phrase: str, prompt: str, phrases: Sequence[str]) -> dict[int, list[int]]:
        """For which tokens of the prompt those of a region's text count, by their places.

        Those of its phrase count for the phrase, wherever it stands in the prompt, and words between phrases for
        themselves.
        """
        here, there = self._places(text, phrase), self._places(prompt, phrase)
        counted = {
            place.start + token: [own.start + token for own in there]
            for place in here
            for token in range(place.stop - place.start)
            if there
        }
        between = self._between(text, here)
        others = self._between(prompt, [place for one in phrases for place in self._places(prompt, one)])
        return counted | (
            {one: [other] for one, other in zip(between, others, strict=True)} if len(between) == len(others) else {}
        )

    def _between(self, text: str, places: Sequence[slice]) -> list[int]:
        """The places of the tokens of a text that are in none of `places`."""
        held = {token for place in places for token in range(place.start, place.stop)}
        return [token for token in range(1, prompt_length(self.pipeline.tokenizer, text) + 1) if token not in held]

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
        alone = self.embed([own.text for own in found]).tokens if found else ()
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
        alone = dict(zip(phrases, self.embed(phrases).tokens, strict=True)) if phrases else {}
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


def _about_one(prompt: str, phrase: str, phrases: Sequence[str]) -> str:
    """The prompt with `phrase` in the place of all other phrases; where none of them is in it, the phrase alone."""
    known = [re.escape(one) for one in sorted({*phrases} - {""}, key=len, reverse=True)]
    text = re.sub(rf"\b(?:{'|'.join(known)})\b", lambda _: phrase, prompt) if phrase else phrase
    return text if phrase in text and text != prompt else phrase


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
