"""Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") in Python integers and in torch."""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF

Seed = int | Tensor  # a tensor: on the GPU, read there by the kernel, as CUDA graphs need it


def philox_words(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 of one counter, in Python integers: the form that derives keys, and the oracle of `philox`."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + _WEYL[0]) & MASK, (k1 + _WEYL[1]) & MASK
    return c0, c1, c2, c3


def philox(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox4x32-10 of many counters.

    counter: (4, n) int64, each word in [0, 2^32). Returns (4, n) int64 words. The products wrap in int64 and are
    masked, so plain integer arithmetic on any device gives the same bits.
    """
    even, odd = counter[0::2].contiguous(), counter[1::2].contiguous()  # (c0, c2) and (c1, c3)
    multipliers = torch.tensor(_MULTIPLIERS, device=counter.device, dtype=torch.int64).view(2, 1)
    keys = [[[(k + r * w) & MASK] for k, w in zip(key, _WEYL, strict=True)] for r in range(10)]
    product, high = torch.empty_like(even), torch.empty_like(even)
    (even0, even1), (odd0, odd1), (product0, product1), (high0, high1) = even, odd, product, high
    for round_key in torch.tensor(keys, device=counter.device, dtype=torch.int64).unbind():
        torch.mul(even, multipliers, out=product)
        torch.bitwise_right_shift(product, 32, out=high)
        torch.bitwise_xor(high1, odd0, out=even0)
        torch.bitwise_xor(high0, odd1, out=even1)
        even.bitwise_xor_(round_key).bitwise_and_(MASK)
        torch.bitwise_and(product1, MASK, out=odd0)
        torch.bitwise_and(product0, MASK, out=odd1)
    return torch.stack((even0, odd0, even1, odd1))


def key_of(seed: int, site: int) -> tuple[int, int]:
    """The key of a site: the first two words of the counter (site, 0, 0) under the key `seed`."""
    seed &= (1 << 64) - 1
    words = philox_words((site & MASK, (site >> 32) & MASK, 0, 0), (seed & MASK, seed >> 32))
    return words[0], words[1]
