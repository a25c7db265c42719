"""The Triton kernels give the bits of the native library.

On a machine with a CUDA GPU they run there. Without one they run on the CPU in Triton's interpreter, in a process of
its own (TRITON_INTERPRET must be set before triton is imported, and other tests may import it).
"""

import math
import os
import subprocess
import sys
from itertools import product

import pytest
import torch

from dither.kernels import _triton
from native_library import SEED, SITE, flat, library_path, native

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if CUDA else "cpu"
SPECIAL = [0.0, -0.0, 88.0, -88.0, 87.5, -87.5, 20.0, -20.0, 1e30, -1e30, 1e-40, -1e-40, math.inf, -math.inf, math.nan]
UNITS = (1, 3, 63, 64, 65, 127, 128, 129, 200)
# (units, lead, dtype): all units with either dtype, and with one row of samples or three.
ROWS = [
    (units, (1, 3)[(i + j) % 2], dtype)
    for i, units in enumerate(UNITS)
    for j, dtype in enumerate((torch.float32, torch.bfloat16))
]


def missing() -> str | None:
    """Why nothing can be compared here."""
    if not _triton.AVAILABLE:
        return "triton is not installed"
    path = library_path()
    if path is None or not os.path.exists(path):
        return "no native library: install csrc, or name its .so in DITHER_KERNELS_LIBRARY"
    return None if CUDA or fused() else "this Triton's interpreter rounds a fused multiply-add twice"


def fused() -> bool:
    """Whether the interpreter's fma is one: (1 + e)^2 - (1 + 2 e) = e^2."""
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle, interpreter_builder

    x, y = (TensorHandle(np.array([v], dtype=np.float32), tl.float32) for v in (1 + 2**-12, -1 - 2**-11))
    return interpreter_builder.create_fma(x, x, y).data[0] == 2**-24


needed = pytest.mark.skipif(missing() is not None, reason=missing() or "")


def comparison(function):
    """A test that runs on the GPU or in the interpreter, where numpy warns of what float32 does with infinities."""
    elsewhere = pytest.mark.skipif(not (CUDA or INTERPRETED), reason="no GPU here: test_in_the_interpreter runs this")
    return pytest.mark.filterwarnings("ignore::RuntimeWarning")(needed(elsewhere(function)))


# --- Cases ---------------------------------------------------------------------------------------------------------------
def noise(lead, batch=3, expanded=False):
    """(samples, ids): ids on both sides of 2^32, up to 2^47, and samples up to 2^16 - 1."""
    ids = torch.tensor([7, 2**32 + 5, 2**47 - 3, 11, 2**33])[:batch].repeat(lead, 1)
    ids = ids[:1].expand(lead, batch) if expanded else ids + torch.arange(lead).unsqueeze(1) * 13
    return torch.tensor([65535, 0, 41])[:lead].clone(), ids


def logits_of(units, lead, dtype, batch=3, strided=False):
    """Ordinary logits, and special ones in a fifth of the places."""
    generator = torch.Generator().manual_seed(units * 10 + lead)
    shape = (batch, lead, units + 5) if strided else (lead, batch, units)
    logits = 5 * torch.randn(shape, generator=generator)
    special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), shape, generator=generator)]
    logits = torch.where(torch.rand(shape, generator=generator) < 0.2, special, logits).to(dtype)
    return logits[..., 3 : 3 + units].transpose(0, 1) if strided else logits


def words_of(x):
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def assert_same(got, expected):
    """The same bits; any NaN is like another."""
    got = got.cpu()
    assert got.dtype == expected.dtype and got.shape == expected.shape and got.is_contiguous()
    same = words_of(got) == words_of(expected)
    if got.is_floating_point():
        same |= got.isnan() & expected.isnan()
    assert same.all(), f"{(~same).sum()} of {same.numel()} differ: {got[~same][:5]}, expected {expected[~same][:5]}"


def on_device(*tensors):
    """Moved with their strides, also those of expanded ids."""
    return tuple(moved(t) for t in tensors) if CUDA else tensors


def moved(t):
    if t.stride(0) == 0:
        return t[:1].to(DEVICE).expand_as(t)
    return torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device=DEVICE).copy_(t)


def compare(kernel, name, units, lead, dtype, strided, *args, results=1, noise_per_unit=1):
    """Run both on the same rows."""
    samples, ids = noise(lead, expanded=strided and lead > 1)
    logits = logits_of(units, lead, dtype, strided=strided)
    got = kernel(*on_device(logits), SEED, SITE, *on_device(samples, ids), *args)
    outs = [torch.empty(logits.shape, dtype=dtype) for _ in range(results)]
    native(name, samples, ids, units * noise_per_unit, *args, *outs, values=logits)
    for one, out in zip(got if results > 1 else (got,), outs, strict=True):
        assert_same(one, out)


# --- Noise ---------------------------------------------------------------------------------------------------------------
@comparison
@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_noise(name):
    for units, lead, expanded in ((u, lead, e) for u in UNITS for lead, e in ((1, False), (3, u % 2 == 0))):
        samples, ids = noise(lead, expanded=expanded)
        got = getattr(_triton, name)(SEED, SITE, *on_device(samples, ids), units)
        assert_same(got, native(name, samples, ids, units, torch.empty(lead, 3, units)))


@comparison
def test_noise_of_many_groups_and_other_seeds():
    samples, ids = noise(1, batch=5)
    for seed, units in product((0, -1, 2**31), (1, 1500)):
        for name in ("uniform", "normal"):
            got = getattr(_triton, name)(seed, SITE, *on_device(samples, ids), units)
            assert_same(got, native(name, samples, ids, units, torch.empty(1, 5, units), seed=seed))


@comparison
@pytest.mark.parametrize("site", [0, 1, SITE])
def test_a_seed_in_memory_is_the_same_seed(site):
    """As recorded CUDA graphs have it."""
    samples, ids = on_device(*noise(3))
    logits = moved(logits_of(129, 3, torch.float32))
    calls = {
        "uniform": (200,),
        "normal": (200,),
        "bernoulli": (),
        "noisy_relu": (0.7,),
        "noisy_tanh": (0.7, 0.3),
        "salt_and_pepper": (0.4, 0.0, 1.0),
    }
    for (name, args), seed in product(calls.items(), (SEED - 2**64, 3, -1)):
        one = moved(torch.tensor([seed]))[0]
        kernel, values = getattr(_triton, name), () if name in ("uniform", "normal") else (logits,)
        place = (site, samples, ids)
        if values:
            got, expected = (kernel(*values, s, *place, *args) for s in (one, seed))
        else:
            got, expected = (kernel(s, *place, *args) for s in (one, seed))
        for g, e in zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]:
            assert_same(g, e.cpu())


@comparison
def test_no_rows_and_no_units():
    samples, ids = noise(1)
    assert _triton.uniform(SEED, SITE, *on_device(samples, ids[:, :0]), 5).shape == (1, 0, 5)
    logits = torch.empty(1, 3, 0, device=DEVICE)
    assert _triton.bernoulli(logits, SEED, SITE, *on_device(samples, ids), packed=True).shape == (1, 3, 0)
    assert _triton.bernoulli_from_uniform(logits, logits).shape == logits.shape


# --- Samples -------------------------------------------------------------------------------------------------------------
def assert_samples(logits, samples, ids, low=-1.25, high=2.5):
    place, units = (SEED, SITE, *on_device(samples, ids)), logits.shape[-1]
    values = _triton.bernoulli(*on_device(logits), *place, low, high)
    packed = _triton.bernoulli(*on_device(logits), *place, packed=True)
    out = torch.empty(logits.shape, dtype=logits.dtype)
    words = torch.empty(*logits.shape[:-1], -(-units // 64), dtype=torch.int64)
    native("bernoulli", samples, ids, units, None, low, high, out, words, None, values=logits)
    assert_same(values, torch.where(logits.isnan(), math.nan, out).to(out.dtype))
    assert_same(packed, words)


@comparison
def test_bernoulli():
    for units, lead, dtype in ROWS:
        samples, ids = noise(lead, expanded=units % 2 == 0)
        assert_samples(logits_of(units, lead, dtype, strided=units % 2 == 1), samples, ids)


@comparison
def test_bernoulli_where_the_high_bits_do_not_suffice():
    """Logits at the uniforms themselves, and next to them."""
    samples, ids = noise(3)
    u = native("uniform", samples, ids, 200, torch.empty(3, 3, 200)).double()
    for shift in (0.0, 1e-7, -1e-7, 1e-5, -1e-5):
        logits = (torch.log(u) - torch.log1p(-u)) * (1 + shift)
        assert_samples(logits.float(), samples, ids)
    assert_samples(logits.bfloat16(), samples, ids)


@comparison
def test_bernoulli_from_uniform():
    a = logits_of(300, 3, torch.float32)
    u = torch.rand(a.shape, generator=torch.Generator().manual_seed(3))
    u = torch.where(torch.arange(300) % 3 == 0, torch.sigmoid(a), u)  # where all hangs on rounding
    expected = flat("threshold", out := torch.empty_like(a), a, u, out, a.numel())
    assert_same(_triton.bernoulli_from_uniform(*on_device(a, u)), expected)
    assert_same(_triton.bernoulli_from_uniform(*on_device(a.mT, u.mT)), expected.mT.contiguous())


@comparison
def test_categorical():
    for (units, lead, dtype), categories in zip(ROWS, [1, 2, 3, 4, 10, 2, 3, 17, 5] * 2, strict=True):
        samples, ids = noise(lead, expanded=True)
        logits = logits_of(units * categories if units < 10 else 20 * categories, lead, dtype, strided=units % 2 == 1)
        logits[:, 0] = logits[:, 0].nan_to_num(0, math.inf, -math.inf)
        logits[:, 1] = logits[:, 1].clamp(-30, 30).nan_to_num(0)  # most units have a winner
        got = _triton.categorical(*on_device(logits), SEED, SITE, *on_device(samples, ids), categories)
        out = torch.empty(logits.shape, dtype=dtype)
        assert_same(got, native("categorical", samples, ids, logits.shape[-1], categories, out, values=logits))


@comparison
def test_categorical_from_uniform():
    for categories in (3, 1024, 1500):
        a = logits_of(categories, 3, torch.float32).clamp(-30, 30).nan_to_num(0)
        a[0, 0, -2:] = math.inf
        a[1, 0] = -math.inf
        a[2, 0, -1] = math.nan
        a[0, 2] = 1.0
        u = torch.rand(a.shape, generator=torch.Generator().manual_seed(3))
        u[0, 2] = 0.25  # equal scores: the first wins
        u[1, 2, 1] = 0
        expected = flat("gumbel_max", out := torch.empty_like(a), a, u, out, 9, categories, categories)
        assert_same(_triton.categorical_from_uniform(*on_device(a, u)), expected)


# --- Noisy values --------------------------------------------------------------------------------------------------------
@comparison
def test_noisy_relu():
    for units, lead, dtype in ROWS:
        compare(_triton.noisy_relu, "noisy_relu", units, lead, dtype, units % 2 == 1, 0.7)


@comparison
def test_noisy_tanh():
    for units, lead, dtype in ROWS:
        compare(_triton.noisy_tanh, "noisy_tanh", units, lead, dtype, units % 2 == 1, 0.3, 0.1, results=2, noise_per_unit=2)


@comparison
def test_salt_and_pepper():
    for units, lead, dtype in ROWS:
        compare(_triton.salt_and_pepper, "salt_and_pepper", units, lead, dtype, units % 2 == 1, 0.3, -0.1, 0.9)


@comparison
def test_straight_through():
    for dtype in (torch.float32, torch.bfloat16):
        a = logits_of(300, 3, dtype)
        g = torch.randn(a.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
        expected = flat("straight_through", out := torch.empty_like(a), g, a, dtype, 0.37, out, a.numel())
        assert_same(_triton.straight_through(*on_device(g, a), 0.37), expected)


# --- Without a GPU -------------------------------------------------------------------------------------------------------
@needed
@pytest.mark.skipif(CUDA or INTERPRETED, reason="the comparisons run in this process")
def test_in_the_interpreter():
    """All comparisons above, in a process with TRITON_INTERPRET=1."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
