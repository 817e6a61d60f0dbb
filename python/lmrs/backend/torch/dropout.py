"""Dropout by a counter-based generator: the mask of the native kernel, element for element."""

import math
from contextvars import ContextVar

import torch
from torch import Tensor

RANDOMNESS: ContextVar[tuple[int, int] | None] = ContextVar("randomness", default=None)
"""(seed, step) of the pass that is running; without them nothing is dropped."""


def dropout(x: Tensor, *, rate: float, site: str) -> Tensor:
    """The mask of the native kernel, element for element: Philox4x32-10 keyed by (seed, step, site)."""
    randomness = RANDOMNESS.get()
    if randomness is None or not rate:
        return x
    seed, step = randomness
    i = torch.arange(math.ceil(x.numel() / 4), device=x.device)
    words = _philox(i & _LOW, i >> 32, seed=seed, step=step, site=_number(site))
    return _kept(x, words.flatten()[: x.numel()].reshape(x.shape), rate)


def dropped(weight: Tensor, first: int, *, rate: float, site: str) -> Tensor:
    """The same for ``weight [heads, queries, keys]`` of attention, whose first query is row ``first`` of the batch.

    The counters are ``(key / 4, row·heads + head, site, step)``, as those of the native kernel.
    """
    randomness = RANDOMNESS.get()
    if randomness is None or not rate:
        return weight
    seed, step = randomness
    heads, queries, keys = weight.shape
    row = torch.arange(first, first + queries, device=weight.device)
    number = (row * heads + torch.arange(heads, device=weight.device)[:, None])[:, :, None]
    block = torch.arange(math.ceil(keys / 4), device=weight.device).expand(heads, queries, -1)
    number = number.expand(block.shape)
    words = _philox(block, number, seed=seed, step=step, site=_number(site))
    return _kept(weight, words.flatten(-2)[..., :keys], rate)


def _kept(x: Tensor, words: Tensor, rate: float) -> Tensor:
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    return torch.where(words >= int(rate * 2**32), x * (1 / (1 - rate)), zero)


_LOW = 2**32 - 1


def _philox(c0: Tensor, c1: Tensor, *, seed: int, step: int, site: int) -> Tensor:
    """Four random words below 2³² for each of the counters ``(c0, c1, site, step)``, in a last dimension."""

    def product(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
        # int64 wraps, which leaves the lower 64 bits of the product as they should be.
        wide = x * factor
        return wide >> 32 & _LOW, wide & _LOW

    c2, c3 = torch.full_like(c0, site), torch.full_like(c0, step)
    k0, k1 = seed & _LOW, seed >> 32
    for _ in range(10):
        (a_high, a_low), (b_high, b_low) = product(c0, 0xD2511F53), product(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = b_high ^ c1 ^ k0, b_low, a_high ^ c3 ^ k1, a_low
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return torch.stack([c0, c1, c2, c3], -1)


def _number(site: str) -> int:
    """FNV-1a of the site's name, as the native op numbers it."""
    number = 0x811C9DC5
    for byte in site.encode():
        number = (number ^ byte) * 0x01000193 % 2**32
    return number
