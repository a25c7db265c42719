"""Derivatives of each run's cost with respect to what each node gave, found once per call and kept out of the user's backward.

A node's output may carry a path to its logits, along which the derivative reaches earlier nodes. That path belongs to the
estimator's own pass only: it is shut (`Valve`) before the loss is handed over, or the user's backward would follow it and add a
straight-through gradient to the estimate. Both functions have vmap rules, so that slopes are found in the same way for one
run, for K runs in a vmap, and inside an oracle's vmap over outcomes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Valve:
    """Open while slopes are found; shut for good afterwards."""

    def __init__(self) -> None:
        self.open = True


class _Passage(torch.autograd.Function):
    """hard, with a path to `path` that a valve can shut. `anchor` is batched wherever any run or outcome is."""

    @staticmethod
    def forward(hard: Tensor, path: Tensor | None, root: Tensor, anchor: Tensor, valve: Valve) -> Tensor:
        return hard.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.valve, ctx.has_path = inputs[4], inputs[1] is not None

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return None, grad_outputs[0] if ctx.valve.open and ctx.has_path else None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, hard: Tensor, path: Tensor | None, root: Tensor, anchor: Tensor, valve: Valve):
        def batched(tensor: Tensor, dim: int | None) -> Tensor:
            return tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)

        anchor = anchor if in_dims[3] is None else anchor.select(in_dims[3], 0)
        path = None if path is None else batched(path, in_dims[1])
        return _Passage.apply(batched(hard, in_dims[0]), path, root, anchor, valve), 0


def passage(hard: Tensor, path: Tensor | None, root: Tensor, anchor: Tensor, valve: Valve) -> Tensor:
    """`hard`, from which slopes can be taken, and through which they reach `path` (the same shape) while the valve is open."""
    return _Passage.apply(hard, path, root, anchor, valve)  # type: ignore[return-value]


class _Slopes(torch.autograd.Function):
    @staticmethod
    def forward(cost: Tensor, *outputs: Tensor) -> tuple[Tensor, ...]:
        if not cost.requires_grad:
            return tuple(torch.zeros_like(o) for o in outputs)
        grads = torch.autograd.grad(
            cost, outputs, torch.ones_like(cost), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return tuple(g.detach() for g in grads)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.inputs = len(inputs)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        return (None,) * ctx.inputs

    @staticmethod
    def vmap(info: Any, in_dims: Any, cost: Tensor, *outputs: Tensor):
        # The very tensors of the graph, in the layout they have: a moved or expanded copy would not be part of it.
        assert all(dim is not None for dim in in_dims[1:]), "every output passed `passage`, whose anchor is batched"
        return _Slopes.apply(cost, *outputs), tuple(in_dims[1:])


def slopes(cost: Tensor, outputs: list[Tensor]) -> list[Tensor]:
    """d cost / d output for every output, summed over the cost's terms; examples (and runs) do not mix."""
    if not outputs:
        return []
    found = _Slopes.apply(cost, *outputs)
    return list(found)  # type: ignore[arg-type]
