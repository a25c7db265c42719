"""Kernels refuse arguments that do not fit, on the native path and on the plain one, with a message that names them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dither import kernels, reconstruction
from dither.kernels import _native

HALVES = (torch.bfloat16, torch.float16)


def r(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device) + 0.5


def ids(count: int, dtype: torch.dtype = torch.int64, device: str = "cpu") -> Tensor:
    return torch.zeros(count, dtype=dtype, device=device)


def key(ids: Tensor, seed: Tensor | None = None, site: int = 0, sample: Tensor | None = None) -> kernels.Key:
    zero = torch.tensor(0)
    return zero if seed is None else seed, site, zero if sample is None else sample, ids, False


def bits(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def uniform(_: Tensor, key: kernels.Key) -> Tensor:
    return kernels.uniform(*key[:4], 3, r(1))


# --- keys: every consumer x every misfit x fused and plain dtypes ---------------------------------------------------------
CONSUMERS: dict[str, Callable[[Tensor, kernels.Key], object]] = {
    "bernoulli": kernels.bernoulli,
    "bernoulli_packed": kernels.bernoulli_packed,
    "bernoulli_bits": kernels.bernoulli_bits,
    "categorical": kernels.categorical,
    "noisy_relu": lambda a, k: kernels.noisy_relu(a, k, 1.0),
    "noisy_tanh": lambda a, k: kernels.noisy_tanh(a, k, 1.0, 0.0),
    "salt_and_pepper": lambda a, k: kernels.salt_and_pepper(a, k, 0.5),
    "uniform": uniform,
}
KEYS: dict[str, tuple[kernels.Key, str]] = {
    "ids int32": (key(ids(4, torch.int32)), "ids has dtype"),
    "ids int16": (key(ids(4, torch.int16)), "ids has dtype"),
    "ids float": (key(ids(4, torch.float32)), "ids has dtype"),
    "ids bool": (key(ids(4, torch.bool)), "ids has dtype"),
    "ids of two dimensions": (key(bits(2, 4)), "shape|sample has 1 numbers"),
    "a scalar id": (key(bits()), "and ids"),
    "sample int32": (key(ids(4), sample=torch.tensor(0, dtype=torch.int32)), "sample has dtype"),
    "sample bool": (key(ids(4), sample=torch.tensor(True)), "sample has dtype"),
    "samples of a scalar seed": (key(ids(4), sample=torch.tensor([0, 1])), "sample|the values have shape"),
    "samples and other seeds": (key(ids(4), seed=bits(3), sample=torch.tensor([0, 1])), "sample"),
    "seed float": (key(ids(4), seed=torch.tensor(1.7)), "seed has dtype"),
    "site -1": (key(ids(4), site=-1), "site is -1"),
    "site 2^64": (key(ids(4), site=2**64), "site is"),
    "more ids": (key(ids(9)), "ids"),
    "fewer ids": (key(ids(3)), "ids"),
    "ids on another device": (key(ids(4, device="meta")), "is on"),
}
OF_VALUES = {"more ids", "fewer ids", "ids on another device"}  # noise alone has as many rows as ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("misfit", KEYS)
@pytest.mark.parametrize("name", CONSUMERS)
def test_keys(name, misfit, dtype):
    if name == "uniform" and misfit in OF_VALUES:
        pytest.skip("noise alone has as many rows as ids, on their device")
    wrong, message = KEYS[misfit]
    with pytest.raises((TypeError, ValueError), match=message):
        CONSUMERS[name](r(4, 3, dtype=dtype), wrong)


# --- the other arguments ----------------------------------------------------------------------------------------------------
K = key(ids(4))
CALLS: dict[str, Callable[[], object]] = {
    "bernoulli: bias shorter": lambda: kernels.bernoulli(r(4, 64), K, bias=r(3)),
    "bernoulli: bias of one": lambda: kernels.bernoulli(r(4, 64), K, bias=r(1)),
    "bernoulli: bias (4, 1)": lambda: kernels.bernoulli(r(4, 64), K, bias=r(4, 1)),
    "bernoulli: bias longer": lambda: kernels.bernoulli(r(4, 3), K, bias=r(9)),
    "bernoulli: bias on another device": lambda: kernels.bernoulli(r(4, 3), K, bias=r(3, device="meta")),
    "bernoulli: gradient": lambda: kernels.bernoulli(r(4, 3), K, "sigmiod"),
    "bernoulli: scalar": lambda: kernels.bernoulli(r(), key(ids(1))),
    "bernoulli_bits: bias shorter": lambda: kernels.bernoulli_bits(r(4, 64), K, r(3)),
    "categorical: one dimension": lambda: kernels.categorical(r(4), K),
    "categorical: no categories": lambda: kernels.categorical(r(4, 0), K),
    "salt_and_pepper: rate 7": lambda: kernels.salt_and_pepper(r(4, 3), K, 7.0),
    "salt_and_pepper: rate nan": lambda: kernels.salt_and_pepper(r(4, 3), K, math.nan),
    "straight_through: logits shorter": lambda: kernels.straight_through(r(64, 4), r(2, 4)),
    "straight_through: gradient shorter": lambda: kernels.straight_through(r(2, 4), r(64, 4)),
    "straight_through: device": lambda: kernels.straight_through(r(5), r(5, device="meta")),
    "bernoulli_from_uniform: device": lambda: kernels.bernoulli_from_uniform(r(5), r(5, device="meta")),
    "categorical_from_uniform: device": lambda: kernels.categorical_from_uniform(r(5, 2), r(5, 2, device="meta")),
    "categorical_from_uniform: scalar": lambda: kernels.categorical_from_uniform(r(), r()),
    "categorical_from_uniform: no categories": lambda: kernels.categorical_from_uniform(r(3, 0), r(3, 0)),
    "packed_linear: bias shorter": lambda: kernels.packed_linear(bits(64, 1), r(96, 64), r(3)),
    "packed_linear: bias float64": lambda: kernels.packed_linear(bits(64, 1), r(8, 64), r(8, dtype=torch.float64)),
    "packed_linear: bias int64": lambda: kernels.packed_linear(bits(64, 1), r(8, 64), bits(8)),
    "packed_linear: bias elsewhere": lambda: kernels.packed_linear(bits(64, 1), r(8, 64), r(8, device="meta")),
    "packed_linear: weight elsewhere": lambda: kernels.packed_linear(bits(64, 1), r(8, 64, device="meta")),
    "packed_linear: weight 1-d": lambda: kernels.packed_linear(bits(64, 1), r(64)),
    "packed_outer: fewer gradient rows": lambda: kernels.packed_outer(bits(96, 1), r(40, 5), 64),
    "packed_outer: fewer packed rows": lambda: kernels.packed_outer(bits(40, 1), r(96, 5), 64),
    "packed_outer: device": lambda: kernels.packed_outer(bits(64, 1), r(64, 5, device="meta"), 64),
    "packed_score: fewer packed rows": lambda: kernels.packed_score(bits(2, 1), r(96, 64), r(96, 1)),
    "packed_score: advantage shorter": lambda: kernels.packed_score(bits(96, 1), r(96, 64), r(3, 1)),
    "packed_score: advantage 7 wide": lambda: kernels.packed_score(bits(64, 1), r(64, 64), r(64, 7)),
    "packed_log_prob: fewer packed rows": lambda: kernels.packed_log_prob(bits(2, 1), r(96, 64)),
    "packed_log_prob: fewer logits": lambda: kernels.packed_log_prob(bits(96, 1), r(2, 64)),
    "unpack: words short": lambda: kernels.unpack(bits(4, 1), 65),
    "pack: scalar": lambda: kernels.pack(r()),
    "bernoulli_log_prob: x shorter": lambda: kernels.bernoulli_log_prob(r(96, 8), r(8)),
    "bernoulli_log_prob: x (1, 8)": lambda: kernels.bernoulli_log_prob(r(96, 8), r(1, 8)),
    "bernoulli_log_prob: x narrower": lambda: kernels.bernoulli_log_prob(r(64, 8), r(64, 3)),
    "bernoulli_log_prob: device": lambda: kernels.bernoulli_log_prob(r(4, 8), r(4, 8, device="meta")),
    "bernoulli_log_prob: scalar": lambda: kernels.bernoulli_log_prob(r(), r()),
    "reconstruction": lambda: reconstruction.Bernoulli().log_prob(r(4, 8), r(4, 8, device="meta")),
}


@pytest.mark.parametrize("name", CALLS)
def test_arguments(name):
    with pytest.raises((TypeError, ValueError)):
        CALLS[name]()


# --- buffers ----------------------------------------------------------------------------------------------------------------
def misaligned(tensor: Tensor) -> Tensor:
    """The same numbers, a byte behind an address that fits."""
    room = torch.zeros(tensor.numel() * tensor.element_size() + 64, dtype=torch.uint8)
    out = torch.frombuffer(memoryview(room.numpy())[1:], dtype=tensor.dtype, count=tensor.numel()).view(tensor.shape)
    return out.copy_(tensor)


@pytest.mark.skipif(kernels.library() is None, reason="needs the native library")
@pytest.mark.parametrize("name", CONSUMERS)
def test_misaligned_buffers(name):
    with pytest.raises(ValueError, match=r"native code needs a multiple of 8 bytes; use ids\.clone"):
        CONSUMERS[name](r(4, 3), key(misaligned(ids(4))))
    if name != "uniform":
        with pytest.raises(ValueError, match=r"native code needs a multiple of 4 bytes; use x\.clone"):
            CONSUMERS[name](misaligned(r(4, 3)), K)


@pytest.mark.skipif(kernels.library() is None, reason="needs the native library")
@pytest.mark.parametrize(
    "wrong",
    [r(4, dtype=torch.float64), torch.ones(4, dtype=torch.bool), r(5), r(8)[::2], torch._neg_view(r(4)),
     r(4, device="meta"), misaligned(r(4))],
)  # fmt: skip
def test_every_buffer_is_checked(wrong):
    assert _native._place("x", r(4), torch.float32, 4)
    with pytest.raises((TypeError, ValueError), match=r"^x "):
        _native._place("x", wrong, torch.float32, 4)


@pytest.mark.parametrize("dtype", [torch.float64, *HALVES], ids=str)
def test_corruption_keeps_the_digits_of_its_values(dtype):
    x = kernels.salt_and_pepper(r(64, 9, dtype=dtype), key(torch.arange(64)), 1.0, 0.3, 0.7)
    assert set(x.unique().tolist()) == set(torch.tensor([0.3, 0.7], dtype=dtype).tolist())
