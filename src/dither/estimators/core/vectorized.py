"""The runs of a call as one vmap over the closure: what torch.func.vmap does, by a shorter way.

torch.func.vmap takes any tree of tensors apart and puts another together, which takes longer than a small node's kernel
several times over. What a run takes and returns is known: its number; a tensor and lists of tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def vectorized(once: Callable[..., Any], count: int, *batched: Tensor) -> Any:
    """torch.func.vmap(once, randomness="same")(torch.arange(count), *batched), for `once` that returns a tensor and lists of
    tensors."""
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode() or torch._C._len_torch_function_stack():
        return torch.func.vmap(once, randomness="same")(torch.arange(count, dtype=torch.int64, device="cpu"), *batched)
    indices = _indices(count)
    level = _functorch._vmap_increment_nesting(count, "same")
    try:
        cost, *lists = once(*(_functorch._add_batch_dim(tensor, 0, level) for tensor in (indices, *batched)))
        remove = _functorch._remove_batch_dim
        return remove(cost, level, count, 0), *([remove(t, level, count, 0) for t in tensors] for tensors in lists)
    finally:
        _functorch._vmap_decrement_nesting()


@lru_cache(maxsize=64)
def _indices(count: int) -> Tensor:
    """Kept for later calls: an ordinary tensor, whatever transform or mode the first call is in."""
    with temporarily_clear_interpreter_stack(), torch.inference_mode(False):
        indices = torch.arange(count, dtype=torch.int64, device="cpu")
        return torch.func.vmap(torch.clone)(indices)  # torch's own loads the decompositions that rules of vmap need
