"""The Triton kernels compile for a GPU that need not be there, to instructions that round as the native library
does."""

import os
import re

import pytest

from dither.kernels import _triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
KERNELS = {
    "uniform": (("GROUPS", 8),),
    "normal": (("GROUPS", 8),),
    "bernoulli": (("GROUPS", 8), ("PACKED", False)),
    "gumbel_max": (("UNITS", 256), ("CATEGORIES", 4)),
    "noisy_relu": (("GROUPS", 8),),
    "noisy_tanh": (("GROUPS", 8),),
    "salt_and_pepper": (("GROUPS", 8),),
    "bernoulli_from_uniform": (("SIZE", 1024),),
    "straight_through": (("SIZE", 1024),),
}
FLOATS = {"low_value", "high_value", "deviation", "before", "after", "rate", "factor"}
TENSORS = {"ids": "*i64", "samples": "*i64", "uniform": "*fp32"}


@pytest.mark.skipif(INTERPRETED or not _triton.AVAILABLE, reason="triton is not installed, or set to interpret")
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "seeded"), [*((name, False) for name in KERNELS), ("normal", True)])
def test_compiles(name, seeded, half, tmp_path, monkeypatch):
    """Nothing that rounds otherwise, and no denormal taken for 0."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compile_for = pytest.importorskip("triton.compiler")
    target = pytest.importorskip("triton.backends.compiler").GPUTarget("cuda", 80, 32)
    from dither.kernels import _triton_kernels

    kernel = getattr(_triton_kernels, name)
    if half and "HALF" not in kernel.arg_names:
        pytest.skip("float32 alone")
    constants = dict(KERNELS[name]) | ({"HALF": half} if "HALF" in kernel.arg_names else {})
    values = dict.fromkeys(("logits", "values", "gradient", "out", "inner"), "*i16" if half else "*fp32")
    constants |= {"SEEDED": seeded} if "SEEDED" in kernel.arg_names else {}
    types = TENSORS | values | dict.fromkeys(FLOATS, "fp32") | dict.fromkeys(constants, "constexpr")
    types |= {"key0": "*i64", "key1": "i64"} if seeded else {}
    signature = {arg: types.get(arg, "i32") for arg in kernel.arg_names}
    source = compile_for.ASTSource(
        kernel, signature, constexprs={(kernel.arg_names.index(k),): v for k, v in constants.items()}
    )
    ptx = compile_for.compile(source, target=target, options={"enable_fp_fusion": False}).asm["ptx"]
    assert not re.findall(r"\S*(?:ftz|approx|div\.full)\S*", ptx)
    roundings = set(re.findall(r"\b(?:add|sub|mul|div|fma|sqrt)\.(\w+)\.f32", ptx))
    assert roundings <= {"rn"}
