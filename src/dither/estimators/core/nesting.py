"""One estimator called in the closure of another: what that may be, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dither.estimators.core.versions import held
from dither.nodes import ClosureError, Node, inner_losses, running


def refuse_shared(name: str, nodes: Mapping[str, Node]) -> None:
    """Raise if a node is taken over already, by whoever runs the closure in which `name` is called."""
    outer = running()
    shared = [own for own, node in nodes.items() if node._handler is not None] if outer is not None else []
    if shared:
        raise ClosureError(
            f"{name} is called in the closure of {outer}, and both cover node '{shared[0]}': which of "
            "them credits it? Build each on modules of its own, or use dither.PerNode, which gives each node its estimator"
        )


def returned(name: str, loss: Tensor) -> Tensor:
    """The loss of an estimator, noted where a closure is running."""
    if running() is not None:
        inner_losses().append((name, loss))
    return loss


def refuse_inner_losses(cost: Tensor, losses: list[tuple[str, Tensor]] | None = None) -> None:
    """Raise if the loss of an estimator that the running closure called is a part of its cost.

    It is one number for all examples. So no row's samples could be credited with their share of it: the gradient would be
    wrong wherever the inner closure depends on them. losses: those that were called in a run that is over.
    """
    losses = inner_losses() if losses is None else losses
    if not losses or not isinstance(cost, Tensor):
        return
    with torch._C.DisableTorchFunction():
        wanted = {held(loss).grad_fn: name for name, loss in losses if held(loss).grad_fn is not None}
        reached = {function: None for function in [held(cost).grad_fn] if function is not None}
        todo = list(reached)
        while todo and wanted:
            function = todo.pop()
            if function in wanted:
                inner, outer = wanted[function], running()
                raise ClosureError(
                    f"the loss of {inner}, called in the closure of {outer}, is a part of the closure's cost: it is one number "
                    "for all examples, of which no example can be credited with its own; add it to the loss outside the "
                    f"closure, {outer}'s + {inner}'s, or give all nodes to one estimator, such as dither.PerNode"
                )
            for after, _ in function.next_functions:
                if after is not None and after not in reached:
                    reached[after] = None
                    todo.append(after)
