"""Weights of minimum squared error, per unit, from moments that were averaged; and the error that they leave."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def pairs(z: Tensor) -> Tensor:
    """The mean over pairs of runs k != j of z_k z_j'. z: (K, *units, F)."""
    return (outer(z.sum(0)) - outer(z).sum(0)) / (len(z) * (len(z) - 1))


def outer(values: Tensor) -> Tensor:
    return values.unsqueeze(-1) * values.unsqueeze(-2)


def weights_of(second: Tensor, across: Tensor, basis: tuple[Tensor, Tensor]) -> Tensor:
    """Least squares per unit, (units, F), with a ridge that only keeps inputs that vanish from dividing by zero."""
    start, free = (part.to(second) for part in basis)
    matrix = free @ second @ free.T
    target = (across[..., :-1, -1] - second @ start) @ free.T
    scale = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)
    ridge = torch.where(scale > 0, 1e-6 * scale, torch.ones_like(scale))
    eye = torch.eye(len(free), dtype=second.dtype, device=second.device)
    solution = torch.linalg.solve(matrix + ridge[..., None, None] * eye, target.unsqueeze(-1)).squeeze(-1)
    return start + solution @ free


def quality(inputs: tuple[str, ...], second: Tensor, across: Tensor, basis: tuple[Tensor, Tensor]) -> dict[str, Any]:
    c, g, both = across[..., :-1, -1], across[..., -1, -1], across[..., :-1, :-1]

    def quadratic(w: Tensor, matrix: Tensor) -> Tensor:
        return torch.einsum("...f,...fg,...g->...", w, matrix, w)

    def missed(w: Tensor) -> tuple[float, float]:
        bias = (quadratic(w, both) - 2 * (w * c).sum(-1) + g).clamp(min=0)
        return float(bias.sum()), float((quadratic(w, second) - quadratic(w, both)).clamp(min=0).sum())

    weights = weights_of(second, across, basis)
    bias, variance = missed(weights)
    mean = weights.reshape(-1, len(inputs)).mean(0).tolist()
    row: dict[str, Any] = {"weights": dict(zip(inputs, mean, strict=True))}
    row |= {"bias2": bias, "variance": variance, "mse": bias + variance}
    for name in ("unbiased", "biased"):
        if name in inputs:
            alone = torch.zeros_like(weights)
            alone[..., inputs.index(name)] = 1
            row[f"{name}_mse"] = sum(missed(alone))
    return row
