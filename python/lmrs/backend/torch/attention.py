"""Attention as its equation, one sequence after another."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

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
) -> Tensor:
    def split(x: Tensor, count: int) -> Tensor:
        return x.view(len(x), count, -1).transpose(0, 1).repeat_interleave(heads // count, 0)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, m, p = len(q), len(k), 0
        distance = torch.arange(m, device=q.device) - torch.arange(n, device=q.device)[:, None]
        seen = torch.ones_like(distance, dtype=torch.bool)
        if causal:
            seen = (distance <= 0) & (distance > -(window or n))
        if prefix_k is not None and prefix_v is not None:
            p, k, v = len(prefix_k), torch.cat([prefix_k, k]), torch.cat([prefix_v, v])
            seen = functional.pad(seen, (p, 0), value=True)
        score = scale * split(q, heads) @ split(k, kv_heads).mT
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        if table is not None and relative is not None:
            score = score + functional.pad(table[buckets(distance, **relative)].movedim(-1, 0), (p, 0))
        if alibi is not None:
            slopes = torch.tensor(alibi, dtype=score.dtype, device=score.device)[:, None, None]
            score = score - functional.pad(slopes * distance.abs(), (p, 0))
        weight = score.masked_fill(~seen, -torch.inf).softmax(-1)
        return (weight @ split(v, kv_heads)).transpose(0, 1).flatten(1)

    spans = zip(queries.spans(), keys.spans(), strict=True)
    return torch.cat([attend(q[a:b], k[c:d], v[c:d]) for (a, b), (c, d) in spans])


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
