"""Counter-based noise: the same key gives the same bits, whatever the thread count, batch split, rank or device.

The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). The value for one
unit of one example depends on (seed, site, sample, example, unit) and on nothing else, so a batch may be split, permuted or
spread over processes and every example keeps its noise (`examples`). Seeds are drawn from torch's default CPU generator
(`draw_seed`): `torch.manual_seed` governs everything. `dither.kernels` makes the bits; which ones is written in
kernels/_reference.py.

Uniforms are float32 in the *open* interval (0, 1): a 32-bit word, cut off (not rounded) after its first 24 significant bits,
plus 1/2, times 2^-32. So resolution is 2^-32 near zero, events of probability 1e-6 occur at their rate, and P(u < p) is p
itself. Noise stays float32 when the model is bfloat16: a bfloat16 uniform compared with .001 fires at .003.

Noise need not exist to be used: `Keyed` names it, and what consumes it may draw it on the fly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from dither import kernels
from dither.kernels import philox_words

_MASK = 0xFFFFFFFF
_FIRST = torch.tensor(0, dtype=torch.int64, device="cpu")  # the sample number of noise that is not of an estimator's run
LARGEST = 1 - 2.0**-24  # the float32 below 1, and the largest uniform
MAX_SAMPLES = 1 << 16


# --- seeds --------------------------------------------------------------------------------------------------------------
def step_seed(seed: int, step: int) -> int:
    """A seed for step number `step` of a run: reseeding torch with it at every step makes a run resumable without any
    saved generator state. Distinct (seed, step) give independent streams."""
    words = philox_words((step & _MASK, (step >> 32) & _MASK, 1, 0), (seed & _MASK, (seed >> 32) & _MASK))
    return (words[0] << 31) ^ words[1]


@torch.library.custom_op("dither::draw_seed", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def _draw_seed(call: int, *, device: torch.device) -> Tensor:
    return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device="cpu")


@_draw_seed.register_fake
def _(call: int, *, device: torch.device) -> Tensor:
    return torch.empty((), dtype=torch.int64, device="cpu")


_TRACED_CALLS = itertools.count(1)


def traced_call() -> int:
    """A number that no other traced call of a seed has. A compiled training graph merges calls of equal arguments, whatever
    their tags: without it all nodes would share one seed."""
    return next(_TRACED_CALLS)


# What torch.compiler.assume_constant_result does, which imports the whole compiler, 0.6 s, for it.
traced_call._dynamo_marked_constant = True  # type: ignore[attr-defined]


def draw_seed() -> Tensor:
    """A 64-bit seed (0-d int64, on the CPU) from torch's default generator."""
    if _SOURCE is not None:
        return next(_SOURCE)
    if kernels.plain():
        return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device="cpu")
    # By `device` compiled checkpointing knows which generator's state to replay.
    return _draw_seed(traced_call() if torch.compiler.is_compiling() else 0, device=torch.device("cpu"))


def draw_seeds(out: Tensor) -> Tensor:
    """The next seeds that as many calls of `draw_seed` would give, into `out` (n,) int64, which is returned."""
    return torch.randint(-(2**63), 2**63 - 1, out.shape, dtype=torch.int64, out=out)


_SOURCE: Iterator[Tensor] | None = None


@contextmanager
def seeds_from(source: Iterator[Tensor]) -> Iterator[None]:
    """Within it `draw_seed` gives the seeds of `source`. They may be on the GPU, for kernels that find them there."""
    global _SOURCE
    before, _SOURCE = _SOURCE, source
    try:
        yield
    finally:
        _SOURCE = before


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
    if kernels.plain():
        return _consecutive(batch, device, _rank())
    return torch.arange(batch, device=device, dtype=torch.int64) + _rank() * batch


@lru_cache(maxsize=64)
def _consecutive(batch: int, device: torch.device, rank: int) -> Tensor:
    return torch.arange(batch, device=device, dtype=torch.int64) + rank * batch


_DISTRIBUTED = torch.distributed.is_available()


def _rank() -> int:
    return torch.distributed.get_rank() if _DISTRIBUTED and torch.distributed.is_initialized() else 0


@dataclass(slots=True)  # a frozen one takes three times as long to make
class Keyed:
    """Noise that is named and not yet drawn: `shape`, batch first, of uniforms or standard normals.

    Where `slices_differ`, a vmap over what consumes it that knows nothing of samples gives each slice a draw of its own.
    """

    kind: Literal["uniform", "normal"]
    seed: Tensor
    site: int
    sample: Tensor
    shape: tuple[int, ...]
    device: torch.device
    slices_differ: bool = False

    @property
    def key(self) -> kernels.Key:
        """What an operator of `dither.kernels` draws it by."""
        return self.seed, self.site, self.sample, example_ids(self.shape[0], self.device), self.slices_differ

    def draw(self, like: Tensor) -> Tensor:
        """The noise as float32. Where slices differ, those of a vmap over `like` do."""
        like = like if self.slices_differ else torch.empty((), device=self.device, dtype=torch.float32)
        return (uniform if self.kind == "uniform" else normal)(self.seed, self.site, self.sample, self.shape, like)


def uniform(seed: Tensor, site: int, sample: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """float32 uniforms in (0, 1) of the given shape, whose first dimension is the batch, on the device of `like`."""
    batch, units = shape[0], math.prod(shape[1:])
    ids = example_ids(batch, like.device)
    return kernels.uniform(seed, site, sample, ids, units, like.detach()).view(shape)


def normal(seed: Tensor, site: int, sample: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """float32 standard normals of the given shape by Box-Muller: units 2 j and 2 j + 1 share a pair of words."""
    batch, units = shape[0], math.prod(shape[1:])
    ids = example_ids(batch, like.device)
    return kernels.normal(seed, site, sample, ids, units, like.detach()).view(shape)


def fresh(kind: Literal["uniform", "normal"], shape: tuple[int, ...], device: torch.device) -> Keyed:
    """Noise of a new seed, which nobody else draws: for what samples outside nodes. Slices of a vmap differ.

    >>> fresh("uniform", (2, 3), torch.device("cpu")).draw(torch.empty(())).shape
    torch.Size([2, 3])
    """
    return Keyed(kind, draw_seed(), 0, _FIRST, shape, device, True)
