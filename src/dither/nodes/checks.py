"""What logits must be, checked where Python may look at them."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from dither import kernels


class Labelled(Protocol):
    @property
    def label(self) -> str: ...


def check_logits(node: Labelled, logits: Tensor) -> None:
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        kind = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"{node.label}: logits must be a floating-point tensor, got {kind}; convert with logits.float()")
    if logits.dim() == 0:
        raise ValueError(f"{node.label}: logits is a scalar, its first dimension must be the batch; use logits.reshape(1, 1)")
    # Inside a transform or on a GPU the test would break the graph or wait for the device: there NaN stays visible,
    # because it passes into the sample, and the estimator finds it in the cost.
    if logits.is_cpu and is_concrete(logits) and _has_nan(logits):
        count = int(logits.isnan().sum())
        raise ValueError(
            f"{node.label}: {count} of {logits.numel()} logits are NaN (shape {tuple(logits.shape)}); a probability must be a "
            "number (infinite logits are legal). Look for a diverged parameter: lower the learning rate, clip gradients"
        )


def _has_nan(logits: Tensor) -> bool:
    with torch._C.DisableTorchFunction():  # what is watched is the user's closure
        return math.isnan(logits.detach().sum()) and bool(logits.isnan().any())


def is_concrete(tensor: Tensor) -> bool:
    """Whether Python may look at the values: not while compiling, tracing or recording a CUDA graph, and not inside vmap or
    another transform."""
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode() or kernels.recording(tensor):
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # pyright: ignore[reportAttributeAccessIssue]


def require_sampler(sampler: object, besides: str = "") -> None:
    if not callable(sampler):
        raise TypeError(f"sampler is {sampler!r}: a function (logits, noise) -> sample is needed{besides}")
