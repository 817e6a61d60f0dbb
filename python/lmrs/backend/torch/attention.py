"""Attention, one sequence after another: torch's fused kernel, or the equation where that one lacks a term."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lmrs.backend.torch.dropout import RANDOMNESS, dropped
from lmrs.batch import Ragged


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor | None,
    prefix_k: Tensor | None,
    prefix_v: Tensor | None,
    queries: Ragged,
    keys: Ragged,
    *,
    heads: int,
    kv_heads: int,
    scale: float,
    causal: bool,
    window: int | None,
    softcap: float | None,
    relative: dict[str, Any] | None,
    alibi: list[float] | None,
    cache: str | None,
    dropout: float = 0.0,
    site: str = "",
) -> Tensor:
    def split(x: Tensor, count: int) -> Tensor:
        return x.view(len(x), count, -1).transpose(0, 1).repeat_interleave(heads // count, 0)

    def attend(first: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, m, p = len(q), len(k), 0
        distance = torch.arange(m, device=q.device) - torch.arange(n, device=q.device)[:, None]
        seen = distance <= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
        if window is not None:
            seen = seen & (distance.abs() < window)
        if prefix_k is not None and prefix_v is not None:
            p, k, v = len(prefix_k), torch.cat([prefix_k, k]), torch.cat([prefix_v, v])
            seen = functional.pad(seen, (p, 0), value=True)
        bias = None
        if table is not None and relative is not None:
            bias = functional.pad(table[buckets(distance, **relative)].movedim(-1, 0), (p, 0))
        if alibi is not None:
            slopes = torch.tensor(alibi, dtype=q.dtype, device=q.device)[:, None, None]
            slope = functional.pad(slopes * distance.abs(), (p, 0))
            bias = -slope if bias is None else bias - slope
        q, k, v = split(q, heads), split(k, kv_heads), split(v, kv_heads)
        if softcap is None and not (dropout and RANDOMNESS.get()):
            plain = window is None and bias is None and (not causal or (n == m and not p))
            if bias is not None:
                seen = bias.to(q.dtype).masked_fill(~seen, -torch.inf)
            options = {"is_causal": causal} if plain else {"attn_mask": seen}
            # The flash kernel, where torch has one for the device, the dtype and the mask.
            mixed = functional.scaled_dot_product_attention(q, k, v, scale=scale, **options)
            return mixed.transpose(0, 1).flatten(1)
        score = scale * q @ k.mT
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        if bias is not None:
            score = score + bias
        # A query that sees no key gives zeros.
        weight = score.masked_fill(~seen, torch.finfo(score.dtype).min).softmax(-1).masked_fill(~seen, 0.0)
        weight = dropped(weight, first, rate=dropout, site=site)
        return (weight @ v).transpose(0, 1).flatten(1)

    spans = zip(queries.spans(), keys.spans(), strict=True)
    return torch.cat([attend(a, q[a:b], k[c:d], v[c:d]) for (a, b), (c, d) in spans])


def buckets(distance: Tensor, *, buckets: int, max_distance: int, bidirectional: bool) -> Tensor:
    """T5's bucket of a relative position ``key - query``: exact up to half of the buckets, then logarithmic.

    With both directions the upper half of the buckets is for keys to the right. Long as ``distance``.
    """
    first = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        first = (distance > 0) * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return first + torch.where(distance < exact, distance, far)
