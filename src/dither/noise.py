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
from typing import Any, Literal

import torch
from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from dither import kernels
from dither.kernels import philox_words
from dither.scoped import Scoped

_MASK = 0xFFFFFFFF
_FIRST = torch.tensor(0, dtype=torch.int64, device="cpu")  # the sample number of noise that is not of an estimator's run
LARGEST = 1 - 2.0**-24  # the float32 below 1, and the largest uniform
MAX_SAMPLES = 1 << 16
ID_LIMIT = 1 << 48


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
    if (source := _SOURCE.get()) is not None:
        return next(source)
    if kernels.plain():
        return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device="cpu")
    _refuse_randomness_error()
    # By `device` compiled checkpointing knows which generator's state to replay.
    return _draw_seed(traced_call() if torch.compiler.is_compiling() else 0, device=torch.device("cpu"))


def draw_seeds(out: Tensor) -> Tensor:
    """The next seeds that as many calls of `draw_seed` would give, into `out` (n,) int64, which is returned."""
    return torch.randint(-(2**63), 2**63 - 1, out.shape, dtype=torch.int64, out=out)


_SOURCE: Scoped[Iterator[Tensor] | None] = Scoped(None)


@contextmanager
def seeds_from(source: Iterator[Tensor]) -> Iterator[None]:
    """Within it `draw_seed` gives the seeds of `source`. They may be on the GPU, for kernels that find them there."""
    with _SOURCE.set(source):
        yield


# --- slices of a vmap ---------------------------------------------------------------------------------------------------
def _vmaps() -> list[tuple[int, int, str]]:
    """(level, size, randomness) of the vmaps of torch.func that run, innermost first."""
    if torch.compiler.is_compiling() or _functorch.maybe_current_level() is None:
        return []  # compiled code learns of them in the operators' own vmap rules
    stack = [i for i in _functorch.get_interpreter_stack() or () if i.key() == _functorch.TransformType.Vmap]
    vmaps = [(i.level(), _functorch.CVmapInterpreterPtr(i)) for i in reversed(stack)]
    return [(level, vmap.batchSize(), vmap.randomness().name.lower()) for level, vmap in vmaps]


def _among_fakes(tensor: Tensor) -> Tensor:
    """A number as a fake tensor, where FakeTensorMode is on, which takes no others."""
    mode = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)  # pyright: ignore[reportAttributeAccessIssue]
    return tensor if mode is None else mode.from_tensor(tensor)


def _refuse_randomness_error() -> None:
    if any(randomness == "error" for _, _, randomness in _vmaps()):
        raise RuntimeError(kernels.RANDOMNESS_ERROR)


def _of_slices(sample: Tensor) -> Tensor:
    """The sample number of noise that nobody keys by slice: another in each slice where a vmap says "different"."""
    for level, size, randomness in _vmaps():
        if randomness == "error":
            raise RuntimeError(kernels.RANDOMNESS_ERROR)
        if randomness == "different":
            with temporarily_clear_interpreter_stack():  # or a torch.func.grad in between would own it
                slices = torch.arange(size, device=sample.device, dtype=torch.int64)
            sample = sample * size + _functorch._add_batch_dim(slices, 0, level)
    return sample


# --- the interface ------------------------------------------------------------------------------------------------------
_EXAMPLES: Scoped[Tensor | None] = Scoped(None)


@contextmanager
def examples(ids: Tensor) -> Iterator[None]:
    """Within it, row i of every batch is example `ids[i]`: its noise follows it through any split or permutation.

    ids: (batch,) int64, 0 <= id < 2^48. Without it the ids are 0, 1, ... (plus rank * batch under torch.distributed).
    """
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
    with _EXAMPLES.set(ids):
        yield


def named_examples() -> int | None:
    """How many examples `examples` names at present."""
    present = _EXAMPLES.get()
    return None if present is None else len(present)


def naming(ids: Tensor) -> Any:
    """`examples`, for ids that are known to be right."""
    return _EXAMPLES.set(ids)


def ids_of(index: Tensor, batch: int | None) -> Tensor:
    """The ids of some examples of a batch, (rows,) int64."""
    present = _EXAMPLES.get()
    if present is not None:
        if index.is_cpu and not torch.compiler.is_compiling() and len(index) and int(index.max()) >= len(present):
            raise ValueError(
                f"index has {int(index.max())}, but noise.examples names {len(present)} examples: numbers from 0 to "
                f"{len(present) - 1} are needed"
            )
        return present.to(index.device)[index]
    rank = _rank()
    if batch is None and _DISTRIBUTED and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        raise ValueError(
            "dither.rows is used by several ranks, whose examples are not known: give dither.rows(index, batch=len(x)), or "
            "name the examples by noise.examples(ids) around the closure"
        )
    return index + rank * (batch or 0)


def example_ids(batch: int, device: torch.device) -> Tensor:
    """The ids of the rows of a batch of this size: those of `examples`, else consecutive ones that no rank shares."""
    compiling = torch.compiler.is_compiling()
    if (ids := _EXAMPLES.get() if compiling else _EXAMPLES.present()) is not None:
        if ids.shape[0] != batch:
            raise ValueError(
                f"a node got a batch of {batch} rows inside noise.examples(ids) with {len(ids)} ids: the first "
                "dimension of logits must be the batch; reshape (batch * time, units) to (batch, time, units)"
            )
        return ids.to(device)
    if compiling or is_in_torch_dispatch_mode():
        return torch.arange(batch, device=device, dtype=torch.int64) + _rank() * batch
    return _consecutive(batch, device, _rank())


@lru_cache(maxsize=64)
def _consecutive(batch: int, device: torch.device, rank: int) -> Tensor:
    """Kept for later calls: an ordinary tensor, whatever transform or mode the first call is in."""
    with temporarily_clear_interpreter_stack(), torch.inference_mode(False), torch._C.DisableTorchFunction():
        return torch.arange(rank * batch, (rank + 1) * batch, device=device, dtype=torch.int64)


_DISTRIBUTED = torch.distributed.is_available()


def _rank() -> int:
    return torch.distributed.get_rank() if _DISTRIBUTED and torch.distributed.is_initialized() else 0


@dataclass(slots=True)  # a frozen one takes three times as long to make
class Keyed:
    """Noise that is named and not yet drawn: `shape`, batch first, of uniforms or standard normals.

    Where `slices_differ`, the slices of a torch.func.vmap that knows nothing of samples have the noise that its `randomness`
    says: "same" one draw for all, "different" one for each, "error" (vmap's default) a RuntimeError, as in torch.bernoulli.
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
        ids = example_ids(self.shape[0], self.device)
        if torch.compiler.is_compiling():
            return self.seed, self.site, self.sample, ids, self.slices_differ
        seed, sample = self.seed, self.sample
        if is_in_torch_dispatch_mode():
            seed, sample = _among_fakes(seed), _among_fakes(sample)
        return seed, self.site, _of_slices(sample) if self.slices_differ else sample, ids, False

    def draw(self, like: Tensor) -> Tensor:
        """The noise as float32. In compiled code the slices of a vmap over `like` may differ, elsewhere those of any."""
        seed, site, sample, _, by_like = self.key
        like = like if by_like else torch.empty((), device=self.device, dtype=torch.float32)
        return (uniform if self.kind == "uniform" else normal)(seed, site, sample, self.shape, like)


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


def fresh(
    kind: Literal["uniform", "normal"], shape: tuple[int, ...], device: torch.device, slices_differ: bool = True
) -> Keyed:
    """Noise of a new seed, which nobody else draws: for what samples outside nodes.

    slices_differ: whether slices of a vmap have the noise that its `randomness` says, or all the same.

    >>> fresh("uniform", (2, 3), torch.device("cpu")).draw(torch.empty(())).shape
    torch.Size([2, 3])
    """
    return Keyed(kind, draw_seed(), 0, _FIRST, shape, device, slices_differ)
