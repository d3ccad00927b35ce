"""BLIP-2 (Li et al., 2023): captions, the text encoder of Eq. 4, and the image-text scores of the evaluation.

The text side of BLIP-2's first stage and its captioner are two checkpoints, because the captioning Q-Former carries no
text layers. A checkpoint is a folder or a hub id, `revision` a commit of the latter; `RealignError` is raised where
there is none or it cannot be reached. The functions that take tensors are differentiable in the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2TextModelWithProjection,
    BlipImageProcessor,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from realign_cli.models.fingerprint import fingerprint

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedTokenizerBase
from realign_cli.models.loading import Checkpoint, cannot_load
from realign_cli.models.pixels import MEAN, RESIZING, STD, images_to_input, pixels_to_input

_MAX_TEXT_TOKENS = 32  # as BLIP-2 was trained
M = TypeVar("M", bound=PreTrainedModel)


class Blip2Captioner:
    """`roles.Captioner`: greedy or beam search, no sampling."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str,
        max_new_tokens: int = 30,
        num_beams: int = 1,
        revision: str = "main",
    ) -> None:
        # The language model holds most of the weights; half precision lets the published ones fit a common GPU.
        dtype = torch.float32 if torch.device(device).type == "cpu" else torch.float16
        self.model = _load(Blip2ForConditionalGeneration, checkpoint, device, revision, dtype)
        self.tokenizer = _load_tokenizer(checkpoint, revision)
        self._preprocessing = preprocessing(checkpoint, revision, self.model.config)
        self.max_new_tokens = max_new_tokens
        self.num_beams = num_beams

    @torch.no_grad()
    def caption(self, images: Sequence[Image]) -> list[str]:
        if not images:
            return []
        config = self.model.config
        ids = self.model.generate(
            images_to_input(images, **self._preprocessing).to(self.model.device, self.model.dtype),
            do_sample=False,
            num_beams=self.num_beams,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=config.text_config.eos_token_id,
            pad_token_id=config.text_config.pad_token_id,
        )
        return self._texts(ids[:, config.num_query_tokens + 1 :])  # the output repeats the image and start tokens

    @torch.no_grad()
    def sample(self, pixels: Tensor, count: int, seed: int) -> list[list[str]]:
        """`count` captions of each image, drawn from the model's own distribution (temperature 1, nothing cut off).

        `pixels` is float (B, 3, H, W) in [0, 1]; the same batch and `seed` draw the same captions.
        """
        model, text = self.model, self.model.config.text_config
        start = model.get_input_embeddings()(torch.tensor([[text.bos_token_id]], device=model.device))
        prefix = torch.cat([self._image_tokens(pixels), start.expand(len(pixels), -1, -1)], dim=1)
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            ids = model.language_model.generate(
                inputs_embeds=prefix,
                attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long, device=model.device),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                num_return_sequences=count,
                max_new_tokens=self.max_new_tokens,
                eos_token_id=text.eos_token_id,
                pad_token_id=text.pad_token_id,
            )
        texts = self._texts(ids)
        return [texts[i : i + count] for i in range(0, len(texts), count)]

    def log_likelihood(self, pixels: Tensor, captions: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """log p(caption | image) in nats, summed over a caption's tokens and its end, and the number of those.

        Both are (B, K) for K captions of each of B images. Differentiable in `pixels`, float (B, 3, H, W) in [0, 1].
        """
        model = self.model
        count = len(captions[0])
        flat = [caption for group in captions for caption in group]
        targets = caption_targets(self.tokenizer, model.config, flat)
        labels = targets["labels"].to(model.device)
        queries = model.config.num_query_tokens
        words = model.get_input_embeddings()(targets["input_ids"][:, queries:].to(model.device))
        seen = self._image_tokens(pixels).repeat_interleave(count, dim=0)  # an image is looked at once
        outputs = model.language_model(
            inputs_embeds=torch.cat([seen, words], dim=1), attention_mask=targets["attention_mask"].to(model.device)
        )
        chances = outputs.logits[:, :-1].float().log_softmax(-1)
        spoken = labels[:, 1:] != -100
        token = chances.gather(-1, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
        return (token * spoken).sum(1).view(-1, count), spoken.sum(1).view(-1, count)

    def _image_tokens(self, pixels: Tensor) -> Tensor:
        """What the language model reads of the images, (B, Q, D)."""
        inputs = pixels_to_input(pixels.float(), **self._preprocessing)
        return self.model.get_image_features(inputs.to(self.model.device, self.model.dtype)).pooler_output

    def _texts(self, ids: Tensor) -> list[str]:
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


class Blip2TextEncoder:
    """`roles.TextEncoder`, f_enc of Eq. 4: the projected first token of BLIP-2's text branch."""

    def __init__(self, checkpoint: Checkpoint, *, device: str, revision: str = "main") -> None:
        self.model = _load(Blip2TextModelWithProjection, checkpoint, device, revision)
        self.tokenizer = _load_tokenizer(checkpoint, revision)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        if not texts:
            return torch.empty(0, self.model.config.image_text_hidden_size)
        return self.model(**tokenize(self.tokenizer, texts).to(self.model.device)).text_embeds[:, 0].float()


class Blip2Metric:
    """`roles.ImageTextMetric` with two columns.

    `blip_itc` is the cosine, in [-1, 1], of the text and the nearest image query; `blip_itm` is the probability that
    image and text match.
    """

    note = (
        "blip_itc: cosine of the text and its nearest image query, raw: not clamped, not scaled; "
        f"blip_itm: probability of a match, 0 to 1; reads {_MAX_TEXT_TOKENS} tokens"
    )

    def __init__(self, checkpoint: Checkpoint, *, device: str, revision: str = "main") -> None:
        self.model = _load(Blip2ForImageTextRetrieval, checkpoint, device, revision)
        self.tokenizer = _load_tokenizer(checkpoint, revision)
        self._preprocessing = preprocessing(checkpoint, revision, self.model.config)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, RESIZING, self.note)

    @torch.no_grad()
    def measure(self, images: Sequence[Image], prompts: Sequence[str]) -> dict[str, list[float | None]]:
        if not images:
            return {"blip_itc": [], "blip_itm": []}
        model = self.model
        inputs = images_to_input(images, **self._preprocessing).to(model.device)
        text = tokenize(self.tokenizer, prompts).to(model.device)
        patches = model.vision_model(inputs).last_hidden_state
        matching = match_logits(model, patches, text).softmax(-1)[:, 1]
        return {"blip_itc": contrast(model, patches, text).tolist(), "blip_itm": matching.tolist()}

    def similarity(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """`blip_itc` (B,) of float pixels (B, 3, H, W) in [0, 1], differentiable in them."""
        inputs = pixels_to_input(pixels.float(), **self._preprocessing).to(self.model.device)
        patches = self.model.vision_model(inputs).last_hidden_state
        return contrast(self.model, patches, tokenize(self.tokenizer, prompts).to(self.model.device))

    def truncated(self, prompts: Sequence[str]) -> list[bool]:
        return [len(ids) > _MAX_TEXT_TOKENS for ids in self.tokenizer(list(prompts), verbose=False).input_ids]


def preprocessing(checkpoint: Checkpoint, revision: str, config: Blip2Config) -> dict[str, Any]:
    """What `pixels_to_input` is to do for a checkpoint: its image size, and its mean and deviation if it names them."""
    try:
        own, _ = BlipImageProcessor.get_image_processor_dict(checkpoint, revision=revision)
    except OSError:
        own = {}
    return {
        "size": config.vision_config.image_size,
        "mean": own.get("image_mean", MEAN),
        "std": own.get("image_std", STD),
    }


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Any:
    """`input_ids` and `attention_mask`, (B, L) with L at most 32, for the Q-Former's text branch.

    `Blip2Processor` is no use here: it takes the number of image tokens off the length of a text without an image.
    """
    return tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=_MAX_TEXT_TOKENS,
        return_token_type_ids=False,
        return_tensors="pt",
    )


def caption_targets(
    tokenizer: PreTrainedTokenizerBase, config: Blip2Config, captions: Sequence[str]
) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and `labels`, (B, L), for teacher forcing `Blip2ForConditionalGeneration`.

    A row is the image tokens, the start token, the caption and the end token; only caption and end carry labels.
    """
    text = config.text_config
    prompt = [config.image_token_index] * config.num_query_tokens + [text.bos_token_id]
    bodies = [[*ids, text.eos_token_id] for ids in tokenizer(list(captions), add_special_tokens=False).input_ids]
    width = max(map(len, bodies))

    def rows(head: Sequence[Any], pad: Any) -> Tensor:
        return torch.tensor([[*head, *body, *[pad] * (width - len(body))] for body in bodies])

    input_ids = rows(prompt, text.pad_token_id)
    labels = rows([-100] * len(prompt), -100)
    mask = (labels != -100).long()
    mask[:, : len(prompt)] = 1
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


def query_embeddings(model: Blip2ForImageTextRetrieval, patches: Tensor) -> Tensor:
    """Unit rows (B, Q, D) of the image queries that have read `patches`, the vision model's (B, N, C)."""
    queries = model.qformer(
        query_embeds=model.query_tokens.expand(len(patches), -1, -1), encoder_hidden_states=patches
    ).last_hidden_state
    return F.normalize(model.vision_projection(queries), dim=-1)


def text_embeddings(model: Blip2ForImageTextRetrieval, text: Mapping[str, Tensor]) -> Tensor:
    """Unit rows (B, D) of texts; equal to `Blip2TextEncoder` on the same checkpoint."""
    hidden = model.qformer(
        query_embeds=model.embeddings(input_ids=text["input_ids"]),
        query_length=0,
        attention_mask=text["attention_mask"],
    ).last_hidden_state
    return F.normalize(model.text_projection(hidden[:, 0]), dim=-1)


def contrast(model: Blip2ForImageTextRetrieval, patches: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    """Cosine (B,) of each image with its own text: that of the query nearest to the text."""
    return torch.einsum("bqd,bd->bq", query_embeddings(model, patches), text_embeddings(model, text)).amax(1)


def match_logits(model: Blip2ForImageTextRetrieval, patches: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    """Logits (B, 2), no match and match, of each image's patches with its own text."""
    queries = model.query_tokens.expand(len(patches), -1, -1)
    length = queries.shape[1]
    hidden = model.qformer(
        query_embeds=model.embeddings(input_ids=text["input_ids"], query_embeds=queries),
        query_length=length,
        # Without the mask the queries would read the padding, and a score would depend on the batch.
        attention_mask=F.pad(text["attention_mask"], (length, 0), value=1),
        encoder_hidden_states=patches,
    ).last_hidden_state
    return model.itm_head(hidden[:, :length]).mean(1)


def _load(kind: type[M], checkpoint: Checkpoint, device: str, revision: str, dtype: torch.dtype = torch.float32) -> M:
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # one checkpoint serves several classes: unused weights are no news
    try:
        model: Any = kind.from_pretrained(checkpoint, revision=revision, dtype=dtype)
    except OSError as error:
        raise cannot_load(checkpoint, error) from None
    finally:
        transformers_logging.set_verbosity(verbosity)
    return model.to(device).eval().requires_grad_(False)


def _load_tokenizer(checkpoint: Checkpoint, revision: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(checkpoint, revision=revision)
    except OSError as error:
        raise cannot_load(checkpoint, error) from None
