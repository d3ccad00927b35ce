"""The tokenizers of the embedded models: one token per word of the tiny world."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AddedToken, CLIPTokenizer, PreTrainedTokenizerFast

PAD, UNKNOWN, START, IMAGE, END = "<pad>", "<unk>", "<start>", "<image>", "<end>"


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


def word_tokenizer(words: Sequence[str], *, framed: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each of `words`, and `<unk>` for any other.

    A text is framed by `<start>` and `<end>`, unless it is not to be `framed`, as for a GPT-2. `<end>` has the highest
    id, because CLIP pools a text at its highest id.
    """
    tokens = [PAD, UNKNOWN, START, IMAGE, *words, END]
    ids = {token: i for i, token in enumerate(tokens)}
    core = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if framed:
        ends = [(token, ids[token]) for token in (START, END)]
        core.post_processor = processors.TemplateProcessing(f"{START} $A {END}", None, ends)
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # no space before a comma
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        additional_special_tokens=[IMAGE],
        model_max_length=32,
        padding_side="right",
    )
