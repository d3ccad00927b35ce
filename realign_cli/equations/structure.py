"""StructureDiffusion (Feng et al., ICLR 2023, arXiv:2212.05032): a prompt whose phrases are also read alone.

T tokens, D their width, k phrases; a place is where a phrase stands among the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def spliced(prompt: Tensor, phrase: Tensor, place: slice) -> Tensor:
    """The prompt's embedding (T, D) with that of a phrase, encoded alone between BOS and EOS, over its place."""
    embedding = prompt.clone()
    embedding[place] = phrase[1 : 1 + place.stop - place.start]
    return embedding


def mean_embedding(prompt: Tensor, phrases: Sequence[tuple[Tensor, slice]]) -> Tensor:
    """The mean (T, D) of the prompt's embedding and its k >= 1 versions with one phrase spliced in each.

    The layers' values are linear in the embedding and share one key, so that the mean of the k + 1 attentions in the
    paper's section 3.2, O = 1/(k + 1) sum_i A(Q, K_p, V_i), is the attention with the values of this mean. It is
    written as the prompt's and what each phrase adds: a token outside all phrases keeps its embedding to the bit.
    """
    whole = prompt.float()
    added = [spliced(whole, phrase.float(), place) - whole for phrase, place in phrases]
    return (whole + torch.stack(added).sum(0) / (len(phrases) + 1)).to(prompt)


def conjunction_attention(query: Tensor, keys: Tensor, value: Tensor) -> Tensor:
    """O = 1/n sum_i A(Q, K_i, V), the paper's form for prompts that join things with "and".

    Args:
        query: (heads, N, d).
        keys: of the prompt and of each version with one phrase spliced in, (n, heads, T, d).
        value: of the prompt with all phrases spliced in, (heads, T, d).
    """
    n = len(keys)
    attended = F.scaled_dot_product_attention(query.expand(n, -1, -1, -1), keys, value.expand(n, -1, -1, -1))
    return attended.mean(0)
