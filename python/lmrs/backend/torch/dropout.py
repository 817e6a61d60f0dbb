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
    words = _philox(math.ceil(x.numel() / 4), seed=seed, step=step, site=_number(site), device=x.device)
    kept = words.flatten()[: x.numel()].reshape(x.shape) >= int(rate * 2**32)
    return torch.where(kept, x * (1 / (1 - rate)), torch.zeros((), dtype=x.dtype, device=x.device))


def _philox(blocks: int, *, seed: int, step: int, site: int, device: torch.device) -> Tensor:
    """Four random words below 2³² for each of the counters ``(i, i >> 32, site, step)``, ``[blocks, 4]``."""
    low = 2**32 - 1

    def product(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
        # int64 wraps, which leaves the lower 64 bits of the product as they should be.
        wide = x * factor
        return wide >> 32 & low, wide & low

    i = torch.arange(blocks, device=device)
    c0, c1, c2, c3 = i & low, i >> 32, torch.full_like(i, site), torch.full_like(i, step)
    k0, k1 = seed & low, seed >> 32
    for _ in range(10):
        (a_high, a_low), (b_high, b_low) = product(c0, 0xD2511F53), product(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = b_high ^ c1 ^ k0, b_low, a_high ^ c3 ^ k1, a_low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return torch.stack([c0, c1, c2, c3], -1)


def _number(site: str) -> int:
    """FNV-1a of the site's name, as the native op numbers it."""
    number = 0x811C9DC5
    for byte in site.encode():
        number = (number ^ byte) * 0x01000193 % 2**32
    return number
