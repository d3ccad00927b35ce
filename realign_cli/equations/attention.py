"""Eq. 7-9: re-weighting attention modulation.

Symbols: N queries (pixels), T keys (tokens, or pixels again), n objects. S is the likelihood score of Eq. 6, B the
area fraction, R ("match") says which keys a query should look at, lambda_t is `strength`. The paper adds S * M to
QK^T and then divides by sqrt(d); M grows in proportion to QK^T, so here the logits QK^T / sqrt(d) are modulated.

The schedule of lambda_t, the area factor and the shared-segment rule of self-attention follow DenseDiffusion
(Kim et al., 2023), on which the paper builds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_FUSED_WIDTH = 8  # fused kernels want head widths that are multiples of this
_ROWS_AT_ONCE = 256
_PRODUCTS_AT_ONCE = 1 << 20  # 4 MB, which a processor's cache holds


def logits(query: Tensor, key: Tensor) -> Tensor:
    """Eq. 7 before its softmax: QK^T / sqrt(d), (..., N, T) of queries (..., N, d) and keys (..., T, d)."""
    return query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])


def plain_map(query: Tensor, key: Tensor) -> Tensor:
    """Eq. 7: A = softmax(QK^T / sqrt(d)), written out in float32, (..., N, T); for few keys."""
    return logits(query.float(), key.float()).softmax(-1)


def strength(timestep: float, weight: float, power: float) -> float:
    """lambda_t = w * (t / 1000)^power: strongest in the first steps, which settle the layout."""
    return weight * math.pow(timestep / 1000, power)


def modulation_weight(strength: float, area: Tensor, score: Tensor | float = 1.0, *, clamp: bool) -> Tensor:
    """lambda_t * S * (1 - B), with `area` = B and `score` = S broadcast against each other.

    A query with B = 0 lies in no mask and gets weight 0. Above 1 the order of the logits that are pushed down would be
    inverted; `clamp` keeps the weight at or below 1.
    """
    weight = strength * score * (1 - area) * (area > 0)
    return weight.clamp(max=1) if clamp else weight


def modulate(logits: Tensor, match: Tensor, weight: Tensor) -> Tensor:
    """Eq. 8 before its softmax, QK^T + S * M, with the M of Eq. 9, per query and head.

    M is max - QK^T for matching keys and -(QK^T - min) for all others: S * M takes a logit that share of the way to the
    max or the min of its row.

    Args:
        logits: (..., N, T).
        match: R, bool (N, T).
        weight: `modulation_weight`, (N, T) or (N, 1). At 1 a logit arrives.
    """
    # Not torch.aminmax: on a CPU it is slower than both of these together.
    target = torch.where(match, logits.amax(-1, keepdim=True), logits.amin(-1, keepdim=True))
    return torch.lerp(logits, target, weight)


def modulated_attention(query: Tensor, key: Tensor, value: Tensor, match: Tensor, weight: Tensor) -> Tensor:
    """Eq. 8: A'V, with A' of `modulated_map`. Shapes as in `logits` and `modulate`."""
    return modulated_map(query, key, match, weight).to(value.dtype) @ value


def modulated_map(query: Tensor, key: Tensor, match: Tensor, weight: Tensor) -> Tensor:
    """Eq. 8: A', written out in float32, (..., N, T); for few keys. Shapes as in `logits` and `modulate`."""
    return modulate(logits(query.float(), key.float()), match, weight).softmax(-1)


# Regions that read texts of their own


def regional_attention(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, weights: Tensor
) -> Tensor:
    """Cross-attention where each region of the image reads a text of its own, and the rest reads the prompt.

    (1 - sum_i w_i) A(q, k, v) + sum_i w_i A(q, k_i, v_i). MultiDiffusion (Bar-Tal et al., 2023) blends the predictions
    for several texts in this way; blended in the attention they cost no further pass.

    Args:
        query: (heads, N, d).
        key, value: of the prompt, (heads, T, d).
        keys, values: of the regions' texts, (n, heads, T, d).
        weights: w, the share of each pixel that each region has, (n, N), at most 1 in sum; see `region_weights`.

    Returns:
        (heads, N, d).
    """
    read = F.scaled_dot_product_attention(query.expand(len(keys), -1, -1, -1), keys, values)
    rest = (1 - weights.sum(0))[:, None] * F.scaled_dot_product_attention(query[None], key[None], value[None])[0]
    return (rest + (weights[:, None, :, None] * read).sum(0)).to(value.dtype)


def regional_map(query: Tensor, key: Tensor, keys: Tensor, readings: Tensor, weights: Tensor) -> Tensor:
    """The attention of `regional_attention` to the tokens of the prompt, float32 (heads, N, T); each row sums to 1.

    (1 - sum_i w_i) A(q, k) + sum_i w_i A(q, k_i) P_i: what is attended to in the text of a region counts for the tokens
    of the prompt that it was taken from.

    Args:
        query, key, keys, weights: as of `regional_attention`.
        readings: P, (n, T, T): the tokens of the prompt, columns, for which each token of a region's text, rows,
            counts; each row sums to 1.
    """
    read = plain_map(query.expand(len(keys), -1, -1, -1), keys) @ readings[:, None]
    rest = (1 - weights.sum(0))[:, None] * plain_map(query, key)
    return rest + (weights[:, None, :, None] * read).sum(0)


def region_weights(masks: Tensor, latents: tuple[int, int], dilation: int, layer: tuple[int, int]) -> Tensor:
    """The share of each cell of a layer that each region has, float (n, N), at most 1 in sum.

    Masks, bool (n, H, W), are brought to the cells of the latents and grow by `dilation` of them, so that an object
    need not fit its old outline; cells of several regions are shared equally. Sizes are heights and widths.
    """
    cells = shrink(masks, *latents)[:, None].float()
    grown = F.max_pool2d(cells, 2 * dilation + 1, stride=1, padding=dilation)
    return F.interpolate(grown / grown.sum(0).clamp(min=1), layer, mode="area").flatten(1)


# Where the objects are


def shrink(masks: Tensor, height: int, width: int) -> Tensor:
    """Bring bool masks (n, H, W) to (n, height, width): cells covered by half or more.

    A mask that covers no cell by half keeps the cells that it covers most, so no object is lost at low resolution.
    """
    covered = F.adaptive_avg_pool2d(masks.float(), (height, width))
    most = covered.amax((-2, -1), keepdim=True)
    return (covered >= most.clamp(max=0.5)) & (covered > 0)


class Segments(NamedTuple):
    """The pixels of an image grouped by the set of masks that hold them; C groups, pixels in no mask left out.

    `same @ onehot.T` is 1 where query and key share a mask: R of self-attention.
    """

    onehot: Tensor  # float (N, C): the group of each pixel
    same: Tensor  # float (N, C): the groups that share a mask with the pixel
    area: Tensor  # float (N,): B, the share of the image covered by the masks that hold the pixel together
    inside: Tensor  # int (M,): the pixels that lie in any mask; known, so that no layer has to wait for a GPU's count


def segments(masks: Tensor) -> Segments:
    """Group the pixels of possibly overlapping masks, bool (n, N) with n >= 1."""
    sets, group = torch.unique(masks.T, dim=0, return_inverse=True)
    onehot = F.one_hot(group, len(sets)).float()
    same = (masks.T.float() @ sets.T.float() > 0).float()
    held = sets.any(-1)
    return Segments(onehot[:, held], same[:, held], same @ onehot.mean(0), masks.any(0).nonzero()[:, 0])


def token_match(masks: Tensor, tokens: Tensor) -> Tensor:
    """R of cross-attention, bool (N, T): token k is in the phrase of an object whose mask holds query q.

    Args:
        masks: bool (n, N).
        tokens: bool (n, T), the tokens of each object's phrase.
    """
    return masks.T.float() @ tokens.float() > 0


def token_score(tokens: Tensor, likelihoods: Tensor, elsewhere: float) -> Tensor:
    """S, one per token, float (T,): the object's likelihood over its phrase, `elsewhere` over all other tokens.

    Where phrases (bool (n, T)) overlap, the highest of their likelihoods (n,) holds.
    """
    scores = torch.where(tokens, likelihoods[:, None].float(), -torch.inf).amax(0)
    return torch.where(tokens.any(0), scores, elsewhere)


# Self-attention without an N x N matrix


def row_range(query: Tensor, key: Tensor) -> Tensor:
    """max - min over the keys of each query's logits, float32 (heads, N), of (heads, N, d), a block of rows at a time.

    Only the extremes are divided by sqrt(d): division keeps the order, so they are exactly the extremes of the logits.
    """
    scale = math.sqrt(query.shape[-1])
    ranges = query.new_empty(query.shape[:-1], dtype=torch.float32)
    # The products of a block are read twice and should still be in a processor's cache by then; a GPU wants few calls.
    a_head = min(query.shape[-2], _ROWS_AT_ONCE) * key.shape[-2]
    heads = max(1, _PRODUCTS_AT_ONCE // max(1, a_head)) if query.device.type == "cpu" else len(query)
    for queries, keys, found in zip(*(torch.split(x, heads) for x in (query, key, ranges)), strict=True):
        blocks = torch.split(queries, _ROWS_AT_ONCE, -2), torch.split(found, _ROWS_AT_ONCE, -1)
        for rows, place in zip(*blocks, strict=True):
            products = rows @ keys.transpose(-1, -2)
            place.copy_((products.amax(-1) / scale).float() - (products.amin(-1) / scale).float())
    return ranges


def folded_self_attention(query: Tensor, key: Tensor, value: Tensor, where: Segments, weight: Tensor) -> Tensor:
    """Eq. 8 on self-attention as one plain fused attention over widened queries and keys.

    With a the query's weight, R as in `Segments`, and s the logits, modulation gives s + a (max - s) where R = 1 and
    s - a (s - min) elsewhere, that is (1 - a) s + a (max - min) R + a min. The last term is constant along the row and
    drops out of the softmax; R = same . onehot^T has low rank, so the rest is the product of the queries
    [(1 - a) q / sqrt(d), a (max - min) same] and the keys [k, onehot].

    Args:
        query, key, value: (heads, N, d).
        where: the segments of the N pixels.
        weight: `modulation_weight` per query, (N,).

    Returns:
        A'V, (heads, N, d).
    """
    width, groups = query.shape[-1], where.onehot.shape[-1]
    # All three must be equally wide for the fused kernels; the fallback would write out the N x N matrix.
    wide = -(-(width + groups) // _FUSED_WIDTH) * _FUSED_WIDTH
    queries, keys, values = (x.new_zeros(*x.shape[:-1], wide) for x in (query, key, value))
    keys[..., :width], values[..., :width] = key, value
    keys[..., width : width + groups] = where.onehot
    queries[..., :width] = query.float() * ((1 - weight) / math.sqrt(width))[:, None]
    reach = weight[where.inside] * row_range(query[..., where.inside, :], key)
    queries[..., where.inside, width : width + groups] = (reach[..., None] * where.same[where.inside]).to(query.dtype)
    return F.scaled_dot_product_attention(queries[None], keys[None], values[None], scale=1.0)[0, ..., :width]
