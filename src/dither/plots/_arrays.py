"""Tensors and arrays as numpy arrays, checked before they are drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def array(name: str, value: ArrayLike, *axes: str, finite: bool = True) -> np.ndarray:
    """`value` (a tensor of any device, an array, nested lists) as float64 with these axes; ValueError naming `name`.

    An axis called by a number, such as "2", must have that size. None may be empty.
    """
    numbers = numpy(value)
    shape = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
    if numbers.dtype.kind not in "biuf":
        raise ValueError(f"{name} is of type {numbers.dtype}, expected real numbers of shape {shape}")
    fits = all(not axis.isdigit() or size == int(axis) for axis, size in zip(axes, numbers.shape, strict=False))
    if numbers.ndim != len(axes) or numbers.size == 0 or not fits:
        raise ValueError(f"{name} has shape {numbers.shape}, expected {shape}, not empty; reshape it")
    numbers = numbers.astype(np.float64)
    if finite and not np.isfinite(numbers).all():
        count = int((~np.isfinite(numbers)).sum())
        raise ValueError(f"{name} has {count} values that are not finite; find where they come from, none is drawn as another")
    return numbers


def numpy(value: ArrayLike) -> np.ndarray:
    """`value` as a numpy array. Of tensors numpy takes only those on the CPU, without a graph and not in bfloat16."""
    if (detach := getattr(value, "detach", None)) is None:
        return np.asarray(value)
    tensor = detach().cpu()
    return np.asarray(tensor.double() if tensor.is_floating_point() else tensor)
