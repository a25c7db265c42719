"""Whether a tensor was changed in place, and whether two share their memory: also of those that a vmap wraps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]


def version(tensor: Tensor) -> int:
    """How often it was changed in place; the wrapper that a vmap puts around it does not count."""
    if torch.compiler.is_compiling():
        return 0
    tensor = held(tensor)
    return 0 if tensor.is_inference() else tensor._version


def shares_memory(one: Tensor, other: Tensor) -> bool:
    if one is other or torch.compiler.is_compiling():
        return one is other
    one, other = held(one), held(other)
    return one.numel() > 0 and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def held(tensor: Tensor) -> Tensor:
    """What vmaps and other transforms have wrapped."""
    while not torch.compiler.is_compiling() and _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor
