"""Shapes and means of what all runs leave behind, also where there are no units or no examples."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def flat_units(values: Tensor) -> Tensor:
    """(K, batch, ...) -> (K, batch, units): the units of any shape in one dimension, also where they have none."""
    return values.flatten(2) if values.dim() > 2 else values.unsqueeze(-1)


def mean_over_examples(values: Tensor) -> Tensor:
    """The mean over (K, batch), the first two dimensions; of no examples 0, which moves no ratio of two averages."""
    return values.mean((0, 1)) if values.shape[1] else values.sum((0, 1))


def batch_mean(values: Tensor) -> Tensor:
    """The mean of values (batch,); of an empty batch 0, whose gradient is 0."""
    if values.shape[0] == 1:
        return values.squeeze(0)
    return values.mean() if values.shape[0] else values.sum()


def divided(values: Tensor, count: int) -> Tensor:
    """values / count, for few values: torch makes a tensor of a Python number each time, which takes longer than to divide."""
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return values / count
    return values / _number(count, values.dtype)


@lru_cache(maxsize=64)
def _number(count: int, dtype: torch.dtype) -> Tensor:
    """Kept for later calls: an ordinary tensor, whatever transform or mode the first call is in."""
    with temporarily_clear_interpreter_stack(), torch.inference_mode(False), torch._C.DisableTorchFunction():
        return torch.tensor(count, dtype=dtype, device="cpu")
