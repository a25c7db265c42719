"""The native library, called through ctypes: which path is in use, and why.

DITHER_KERNELS=torch turns it off; the name of one of its paths (`avx512`, `avx2`, `neon`, `portable`) stands for that
path instead of the best one. Samples are the same on all. DITHER_KERNELS_LIBRARY names another file to load, such as
one built with sanitizers.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from ctypes import c_char_p, c_float, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from typing import Any

_ABI = 3
_COUNT = (c_int64, c_int64, c_int32)  # rows, units, threads


class Rows(ctypes.Structure):
    """DitherRows of csrc/src/abi.h."""

    _fields_ = (
        ("lead", c_int64),
        ("batch", c_int64),
        ("units", c_int64),
        ("ids", c_void_p),
        ("ids_lead", c_int64),
        ("samples", c_void_p),
        ("seed", c_uint64),
        ("site", c_uint64),
    )
    tensors: object  # that hold ids and samples, and must outlive a call


class Input(ctypes.Structure):
    """DitherInput of csrc/src/abi.h."""

    _fields_ = (("data", c_void_p), ("lead", c_int64), ("row", c_int64), ("dtype", c_int32))
    tensor: object  # that holds the data, and must outlive a call


_ROWS, _INPUT = ctypes.POINTER(Rows), ctypes.POINTER(Input)
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "abi": (c_int32, ()),
    "path": (c_char_p, ()),
    "set_path": (c_int32, (c_char_p,)),
    "words": (None, (c_uint64, c_uint64, c_uint32, c_int64, c_int64, c_uint32, c_int64, c_void_p)),
    "multiply_adds": (c_int64, (c_int64, c_void_p, c_int32)),
    "uniform": (c_int64, (_ROWS, c_void_p, c_int32)),
    "normal": (c_int64, (_ROWS, c_void_p, c_int32)),
    "bernoulli": (c_int64, (_ROWS, _INPUT, c_void_p, c_float, c_float, c_void_p, c_void_p, c_void_p, c_int32)),
    "categorical": (c_int64, (_ROWS, _INPUT, c_int64, c_void_p, c_int32)),
    "noisy_relu": (c_int64, (_ROWS, _INPUT, c_float, c_void_p, c_int32)),
    "noisy_tanh": (c_int64, (_ROWS, _INPUT, c_float, c_float, c_void_p, c_void_p, c_int32)),
    "salt_and_pepper": (c_int64, (_ROWS, _INPUT, c_float, c_float, c_float, c_void_p, c_int32)),
    "threshold": (c_int64, (c_void_p, c_void_p, c_void_p, c_int64, c_int32)),
    "gumbel_max": (c_int64, (c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int32)),
    "straight_through": (c_int64, (c_void_p, c_void_p, c_int32, c_float, c_void_p, c_int64, c_int32)),
    "packed_score": (c_int64, (c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_void_p, *_COUNT)),
    "packed_log_prob": (c_int64, (c_void_p, c_void_p, c_void_p, *_COUNT)),
    "log_prob": (c_int64, (c_void_p, c_void_p, c_int64, c_void_p, *_COUNT)),
    "log_prob_gradient": (c_int64, (c_void_p, c_void_p, c_void_p, c_int64, c_void_p, *_COUNT)),
    "pack": (c_int64, (c_void_p, c_int32, c_void_p, *_COUNT)),
    "unpack": (c_int64, (c_void_p, c_float, c_float, c_int32, c_void_p, *_COUNT)),
    "turn_bits": (c_int64, (c_void_p, c_void_p, *_COUNT)),
    "packed_linear": (c_int64, (c_void_p, c_void_p, c_void_p, c_void_p, c_int64, *_COUNT)),
    "packed_outer": (c_int64, (c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int32, c_int32)),
}


def _load() -> tuple[ctypes.CDLL | None, str]:
    """(the library or None, why there is none)."""
    wanted = os.environ.get("DITHER_KERNELS", "")
    if wanted == "torch":
        return None, "DITHER_KERNELS=torch"
    path = os.environ.get("DITHER_KERNELS_LIBRARY", "")
    if not path:
        try:
            import dither_kernels  # type: ignore[import-not-found]
        except ImportError:
            return None, "dither-kernels is not installed (pip install ./csrc; that needs a C++ compiler)"
        path = str(dither_kernels.library())
    try:
        loaded = ctypes.CDLL(path)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(loaded, f"dither_{name}")
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        return _without(f"the native library cannot be used: {error}")
    if loaded.dither_abi() != _ABI:
        return _without(f"dither-kernels has interface {loaded.dither_abi()}, this dither needs {_ABI}: install both anew")
    if wanted and not loaded.dither_set_path(wanted.encode()):
        return _without(
            f"DITHER_KERNELS={wanted!r}: this processor or build has no such path; use torch, portable, or leave it unset"
        )
    return loaded, ""


def _without(reason: str) -> tuple[None, str]:
    warnings.warn(f"dither runs without native kernels: {reason}", RuntimeWarning, stacklevel=2)
    return None, reason


LIBRARY, REASON = _load()


def library() -> ctypes.CDLL | None:
    """The native library, whose functions are declared in csrc/src/abi.h; None where plain torch is used."""
    return LIBRARY


def path() -> str:
    """The path of CPU kernels in use: avx512, avx2, neon, portable, or torch."""
    return LIBRARY.dither_path().decode() if LIBRARY else "torch"
