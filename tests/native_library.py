"""The native library by itself, called through ctypes: what the Triton kernels are compared with."""

import ctypes
import importlib.util
import os
from functools import lru_cache

import torch

from dither.kernels._library import _FUNCTIONS, Input, Rows

THREADS = 1
SEED, SITE = 0x9876543210FEDCBA, 0x1234567890ABCDEF


def library_path() -> str | None:
    if "DITHER_KERNELS_LIBRARY" in os.environ:
        return os.environ["DITHER_KERNELS_LIBRARY"]
    if importlib.util.find_spec("dither_kernels") is None:
        return None
    import dither_kernels

    return str(dither_kernels.library())


@lru_cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(library_path())
    for name, (result, arguments) in _FUNCTIONS.items():  # a call that does not fit raises
        function = getattr(loaded, f"dither_{name}")
        function.restype, function.argtypes = result, arguments
    return loaded


def address(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def native(name, samples, ids, units, *args, values=None, seed=SEED):
    """Call a function of rows; tensors among the arguments are results."""
    ids = ids.contiguous()
    rows = Rows(*ids.shape, units, ids.data_ptr(), ids.stride(0), samples.data_ptr(), seed & 2**64 - 1, SITE)
    inputs = [ctypes.byref(rows)]
    if values is not None:
        dtype = int(values.dtype == torch.bfloat16)
        inputs.append(ctypes.byref(Input(values.data_ptr(), values.stride(0), values.stride(1), dtype)))
    as_c = {float: ctypes.c_float, int: ctypes.c_int64, type(None): lambda _: None, torch.Tensor: address}
    getattr(library(), f"dither_{name}")(*inputs, *(as_c[type(a)](a) for a in args), THREADS)
    return next((a for a in args if isinstance(a, torch.Tensor)), None)


def flat(name, out, *args):
    as_c = {float: ctypes.c_float, int: ctypes.c_int64, torch.Tensor: address, torch.dtype: lambda d: d == torch.bfloat16}
    getattr(library(), f"dither_{name}")(*(as_c[type(a)](a) for a in args), THREADS)
    return out
