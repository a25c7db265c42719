"""Tensors and arrays as numpy arrays, checked before they are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np


def array(name: str, value: Any, *axes: str, finite: bool = True) -> np.ndarray:
    """`value` (a tensor of any device, an array, nested lists) as float64 with the axes named; ValueError naming `name`.

    An axis called by a number, such as "2", must have that size; none may be empty.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().double()
    found = np.asarray(value)
    shape = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
    if found.dtype.kind not in "biuf":
        raise ValueError(f"{name} is of type {found.dtype}, expected real numbers of shape {shape}")
    fits = all(not axis.isdigit() or size == int(axis) for axis, size in zip(axes, found.shape, strict=False))
    if found.ndim != len(axes) or found.size == 0 or not fits:
        raise ValueError(f"{name} has shape {found.shape}, expected {shape}, not empty; reshape it")
    found = found.astype(np.float64)
    if finite and not np.isfinite(found).all():
        count = int((~np.isfinite(found)).sum())
        raise ValueError(f"{name} has {count} values that are not finite; find where they come from, none is drawn as another")
    return found
