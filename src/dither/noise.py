"""Counter-based noise: the same key gives the same bits, whatever the thread count, batch split, rank or device.

The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). The value for one
unit of one example depends on (seed, site, sample, example, unit) and on nothing else:

    key      two words: the first 64 bits of Philox(counter = (site, 0, 0, 0), key = seed)
    counter  (unit // 4, example mod 2^32, sample * 2^16 + example div 2^32, 0), word unit mod 4

so a batch may be split, permuted or spread over processes and every example keeps its noise (`examples`). Seeds are drawn
from torch's default CPU generator (`draw_seed`): `torch.manual_seed` governs everything.

Uniforms are float32 in the *open* interval (0, 1), (w + 1/2) 2^-32 rounded to nearest and at most 1 - 2^-24: resolution
2^-32 near zero, so events of probability 1e-6 occur at their rate. Noise stays float32 when the model is bfloat16: a
bfloat16 uniform compared with .001 fires at .003.

The two operators are opaque to `torch.compile` and `vmap` (they carry their own rules); native kernels will replace what is
inside without touching a caller.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
LARGEST = 1 - 2.0**-24  # the float32 below 1
_PIECE = 1 << 14  # counters at a time
MAX_SAMPLES = 1 << 16


# --- Philox4x32-10 ------------------------------------------------------------------------------------------------------
def philox_words(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 of one counter, in Python integers: the form that derives keys, and the oracle of `philox`."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def philox(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox4x32-10 of many counters.

    counter: (4, n) int64, each word in [0, 2^32). Returns (4, n) int64 words. The products wrap in int64 and are masked,
    so plain integer arithmetic on any device gives the same bits.
    """
    even, odd = counter[0::2].contiguous(), counter[1::2].contiguous()  # (c0, c2) and (c1, c3)
    multipliers = torch.tensor(_MULTIPLIERS, device=counter.device).view(2, 1)
    keys = [[[(k + r * w) & _MASK] for k, w in zip(key, _WEYL, strict=True)] for r in range(10)]
    product, high = torch.empty_like(even), torch.empty_like(even)
    (even0, even1), (odd0, odd1), (product0, product1), (high0, high1) = even, odd, product, high
    for round_key in torch.tensor(keys, device=counter.device).unbind():
        torch.mul(even, multipliers, out=product)
        torch.bitwise_right_shift(product, 32, out=high)
        torch.bitwise_xor(high1, odd0, out=even0)
        torch.bitwise_xor(high0, odd1, out=even1)
        even.bitwise_xor_(round_key).bitwise_and_(_MASK)
        torch.bitwise_and(product1, _MASK, out=odd0)
        torch.bitwise_and(product0, _MASK, out=odd1)
    return torch.stack((even0, odd0, even1, odd1))


def _key(seed: int, site: int) -> tuple[int, int]:
    seed &= (1 << 64) - 1
    words = philox_words((site & _MASK, (site >> 32) & _MASK, 0, 0), (seed & _MASK, seed >> 32))
    return words[0], words[1]


def step_seed(seed: int, step: int) -> int:
    """A seed for step number `step` of a run: reseeding torch with it at every step makes a run resumable without any
    saved generator state. Distinct (seed, step) give independent streams."""
    words = philox_words((step & _MASK, (step >> 32) & _MASK, 1, 0), (seed & _MASK, (seed >> 32) & _MASK))
    return (words[0] << 31) ^ words[1]


# --- operators ----------------------------------------------------------------------------------------------------------
@torch.library.custom_op("dither::draw_seed", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def _draw_seed(call: int, *, device: torch.device) -> Tensor:
    return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64)


@_draw_seed.register_fake
def _(call: int, *, device: torch.device) -> Tensor:
    return torch.empty((), dtype=torch.int64)


_TRACED_CALLS = itertools.count(1)


@torch.compiler.assume_constant_result
def traced_call() -> int:
    """A number that no other traced call of a seed has. A compiled training graph merges calls of equal arguments, whatever
    their tags: without it all nodes would share one seed."""
    return next(_TRACED_CALLS)


def draw_seed() -> Tensor:
    """A 64-bit seed (0-d int64, on the CPU) from torch's default generator."""
    # By `device` compiled checkpointing knows which generator's state to replay.
    return _draw_seed(traced_call() if torch.compiler.is_compiling() else 0, device=torch.device("cpu"))


@torch.library.custom_op("dither::uniform", mutates_args=())
def _uniform(seed: Tensor, site: int, sample: Tensor, examples: Tensor, units: int, like: Tensor) -> Tensor:
    """(*lead, batch, units) float32 uniforms; seed and sample have shape lead, examples (*lead, batch)."""
    seeds = seed.reshape(-1).tolist()
    if len(set(seeds)) > 1:
        parts = zip(seed.reshape(-1), sample.reshape(-1), examples.reshape(len(seeds), -1), strict=True)
        drawn = torch.stack([_uniform(s, site, k, e, units, like) for s, k, e in parts])
        return drawn.view(*examples.shape, units)
    blocks = -(-units // 4)
    shape = (*examples.shape, blocks)
    counter = torch.zeros((4, *shape), dtype=torch.int64, device=examples.device)
    counter[0] = torch.arange(blocks, device=examples.device)
    counter[1] = (examples & _MASK).unsqueeze(-1)
    counter[2] = ((examples >> 32) + (sample.to(examples.device) << 16).unsqueeze(-1)).unsqueeze(-1)
    key = _key(seeds[0] if seeds else 0, site)
    # In pieces that stay in the cache, and too small for torch to spread over threads, whose hand-over would cost more.
    pieces = counter.view(4, -1).split(_PIECE if counter.device.type == "cpu" else 1 << 62, 1)
    uniform = torch.cat([philox(piece, key).T.to(torch.float32) for piece in pieces])
    uniform = uniform.add_(0.5).mul_(2.0**-32).clamp_(max=LARGEST)
    return uniform.reshape(*examples.shape, blocks * 4)[..., :units].contiguous()


@_uniform.register_fake
def _(seed: Tensor, site: int, sample: Tensor, examples: Tensor, units: int, like: Tensor) -> Tensor:
    return examples.new_empty((*examples.shape, units), dtype=torch.float32)


@_uniform.register_vmap
def _(info, in_dims, seed: Tensor, site: int, sample: Tensor, examples: Tensor, units: int, like: Tensor):
    def batched(tensor: Tensor, dim: int | None) -> Tensor:
        return tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)

    lead = batched(sample, in_dims[2])
    if in_dims[2] is None and in_dims[5] is not None:
        # A user's own vmap over a node: each slice is a draw of its own, as with randomness="different".
        slices = torch.arange(info.batch_size).view(-1, *[1] * sample.dim())
        lead = lead * info.batch_size + slices
    like = like if in_dims[5] is None else like.select(in_dims[5], 0)
    return _uniform(batched(seed, in_dims[0]), site, lead, batched(examples, in_dims[3]), units, like), 0


# --- the interface ------------------------------------------------------------------------------------------------------
_EXAMPLES: Tensor | None = None


@contextmanager
def examples(ids: Tensor) -> Iterator[None]:
    """Within it, row i of every batch is example `ids[i]`: its noise follows it through any split or permutation.

    ids: (batch,) int64, 0 <= id < 2^48. Without it the ids are 0, 1, ... (plus rank * batch under torch.distributed).
    """
    global _EXAMPLES
    if ids.dim() != 1 or ids.dtype != torch.int64:
        raise ValueError(
            f"ids has shape {tuple(ids.shape)} and dtype {ids.dtype}: one int64 id per example of the batch is needed, "
            "shape (batch,); convert with ids.to(torch.int64).reshape(-1)"
        )
    if ids.device.type == "cpu" and ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >> 48):
        raise ValueError(
            f"ids run from {int(ids.min())} to {int(ids.max())}: an id is at least 0 and below 2^48, or two examples could "
            "share noise; number the examples of the data set, or take hashes modulo 2**48"
        )
    before, _EXAMPLES = _EXAMPLES, ids
    try:
        yield
    finally:
        _EXAMPLES = before


def example_ids(batch: int, device: torch.device) -> Tensor:
    """The ids of the rows of a batch of this size: those of `examples`, else consecutive ones that no rank shares."""
    if _EXAMPLES is not None:
        if len(_EXAMPLES) != batch:
            raise ValueError(
                f"a node got a batch of {batch} rows inside noise.examples(ids) with {len(_EXAMPLES)} ids: the first "
                "dimension of logits must be the batch; reshape (batch * time, units) to (batch, time, units)"
            )
        return _EXAMPLES.to(device)
    return torch.arange(batch, device=device) + _rank() * batch


def _rank() -> int:
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def uniform(seed: Tensor, site: int, sample: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """float32 uniforms in (0, 1) of the given shape, whose first dimension is the batch, on the device of `like`."""
    batch, units = shape[0], math.prod(shape[1:])
    ids = example_ids(batch, like.device)
    return _uniform(seed, site, sample, ids, units, like.detach()).view(shape)


def normal(seed: Tensor, site: int, sample: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """float32 standard normals of the given shape by Box-Muller: units 2j and 2j + 1 share a pair of uniforms."""
    batch, units = shape[0], math.prod(shape[1:])
    pairs = uniform(seed, site, sample, (batch, -(-units // 2), 2), like)
    radius, angle = torch.sqrt(-2 * torch.log(pairs[..., 0])), (2 * math.pi) * pairs[..., 1]
    both = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), -1)
    return both.flatten(1)[:, :units].reshape(shape)
