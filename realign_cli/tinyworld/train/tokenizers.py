"""The tokenizer of the embedded models that read CLIP tokens: one token per word of the tiny world."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import AddedToken, CLIPTokenizer


def clip_tokenizer(words: Sequence[str], length: int) -> CLIPTokenizer:
    """A `CLIPTokenizer` that makes one token of each of `words` and `<unk>` of every letter of any other word.

    Text is lower-cased, framed by BOS and EOS and padded with EOS, as CLIP does; `length` is `model_max_length`.
    The vocabulary is `len(tokenizer)` tokens: `tokenizer.vocab_size` does not count added ones.
    """
    # A word built by byte-pair merges would need its letters as tokens of their own, and then no word is unknown.
    single = [word for word in words if len(word) == 1]
    vocab = ["<|startoftext|>", "<|endoftext|>", "<unk>", *(f"{word}</w>" for word in single)]
    tokenizer = CLIPTokenizer(
        vocab={token: i for i, token in enumerate(vocab)}, merges=[], unk_token="<unk>", model_max_length=length
    )
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in words if word not in single])
    return tokenizer
