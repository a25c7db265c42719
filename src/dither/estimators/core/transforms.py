"""Transforms of torch.func around a call of an estimator, or inside its closure: what they may be, and what is refused."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch._C import _functorch  # type: ignore[attr-defined]
from torch.nn.parameter import is_lazy

from dither.estimators.core.baselines.node_state import NodeState
from dither.nodes import ClosureError, Node


def depth() -> int:
    """How many transforms the present code is in."""
    if torch.compiler.is_compiling():
        return 0
    return _functorch.maybe_current_level() or 0


def refuse_deeper(node: Node, outer: int, name: str) -> None:
    """Raise if a node is called in a transform that the closure has entered: outer is the depth of the closure itself.

    The samples of a vmap's slices could be told apart by nobody, and what is recorded in it does not outlive it.
    """
    if depth() != outer:
        raise ClosureError(
            f"{node.label} is called in a transform of torch.func (vmap, grad, jvp ...) that {name}'s closure enters: its "
            "samples would not outlive it. Call the node outside of it, with the dimension that vmap maps as one of the "
            "logits' own (batch, slices, units); for an ensemble, or per-example gradients, call the estimator itself in the "
            "transform"
        )


def refuse_learning(estimator: nn.Module, nodes: Iterable[Node], name: str) -> None:
    """Raise if an estimator that learns is called in a vmap: each slice would have averages of its own, which end with it."""
    stack = _functorch.get_interpreter_stack() or []
    if not any(interpreter.key() == _functorch.TransformType.Vmap for interpreter in stack):
        return
    if any(node._source is not None for node in nodes):  # an oracle, which puts back what is learned
        return
    if any(isinstance(m, NodeState) for m in estimator.modules()) or any(is_lazy(p) for p in estimator.parameters()):
        raise RuntimeError(
            f"{name} is called in a vmap, and learns from calls: each slice would have averages of its own. Call it after some "
            "ordinary calls, within `with estimator.frozen():`, or take one without a state, such as ScoreFunction(net, "
            "baseline='leave-one-out', samples=2)"
        )
