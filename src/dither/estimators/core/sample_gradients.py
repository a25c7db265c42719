"""Derivatives of each run's cost with respect to the nodes' outputs, d cost / d sample, kept out of the user's backward.

A node's output may carry a path to its logits, along which the derivative reaches earlier nodes. That path belongs to the
estimator's own pass only: it is cut (`Graph.cut`) before the loss is handed over, or the user's backward would follow it and
add a straight-through gradient to the estimate. Both functions have vmap rules, so that derivatives are taken in the same way
for one run, for K runs in a vmap, and inside an oracle's vmap over outcomes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dither.nodes import Node


class Graph:
    """The graph of one run that leads from the cost back to the nodes' outputs, until it is cut for good."""

    def __init__(self, run: Tensor, nodes: Iterable[Node], derivatives: bool) -> None:
        """derivatives: whether any will be taken. What they need is made here: compiled code, which calls `leaf`, cannot."""
        self.whole, self.root, self.batched = True, None, run
        if derivatives:
            self.root = torch.zeros((), requires_grad=True, dtype=torch.float32, device="cpu")
            # batched wherever any run, or any outcome of an oracle, is
            source = next((node._source for node in nodes if node._source is not None), None)
            row = getattr(source, "row", None)
            self.batched = run if row is None else run + 0 * row.sum()

    def cut(self) -> None:
        self.whole = False

    def leaf(self, hard: Tensor, path: Tensor | None) -> Tensor:
        """`hard`, of which derivatives can be taken, and from which they reach `path` (the same shape) while the graph is
        whole."""
        if self.root is None:
            raise TypeError("call.differentiable is for estimators whose class says needs_sample_gradients = True; say so")
        return _Leaf.apply(hard, path, self.root.to(hard), self.batched, self)  # type: ignore[return-value]


class _Leaf(torch.autograd.Function):
    @staticmethod
    def forward(hard: Tensor, path: Tensor | None, root: Tensor, batched: Tensor, graph: Graph) -> Tensor:
        return hard.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.graph, ctx.has_path = inputs[4], inputs[1] is not None

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return None, grad_outputs[0] if ctx.graph.whole and ctx.has_path else None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, hard: Tensor, path: Tensor | None, root: Tensor, batched: Tensor, graph: Graph):
        def first(tensor: Tensor, dim: int | None) -> Tensor:
            return tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)

        batched = batched if in_dims[3] is None else batched.select(in_dims[3], 0)
        path = None if path is None else first(path, in_dims[1])
        return _Leaf.apply(first(hard, in_dims[0]), path, root, batched, graph), 0


class _Gradients(torch.autograd.Function):
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
        assert all(dim is not None for dim in in_dims[1:]), "every output is a leaf, which is batched"
        return _Gradients.apply(cost, *outputs), tuple(in_dims[1:])


def sample_gradients(cost: Tensor, outputs: list[Tensor]) -> list[Tensor]:
    """d cost / d output for every output, summed over the cost's terms; examples (and runs) do not mix."""
    if not outputs:
        return []
    return list(_Gradients.apply(cost, *outputs))  # type: ignore[arg-type]
