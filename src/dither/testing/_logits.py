"""What a closure computes, as a function of the logits of every node call: parameters of value zero that are added to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dither.nodes import Node, named_nodes

Closure = Callable[[], Tensor]


@contextmanager
def logits_as_parameters(model: nn.Module, closure: Closure) -> Iterator[tuple[Closure, dict[str, tuple[int, ...]]]]:
    """(the closure, its calls: name of a parameter -> shape (batch, *units[, categories])), while the model has these
    parameters. d/d parameter is then d/d logits, for each unit of each example."""
    nodes = list(named_nodes(model).values())
    calls = dict.fromkeys(nodes, 0)

    def counted() -> Tensor:
        calls.update(dict.fromkeys(nodes, 0))
        return closure()

    def add(node: Node, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        logits, *others = arguments
        name, calls[node] = f"logits_of_call_{calls[node]}", calls[node] + 1
        if look and name not in node._parameters:
            node.register_parameter(name, nn.Parameter(torch.zeros_like(logits)))
        offset = node._parameters.get(name)
        return arguments if offset is None or offset.shape != logits.shape else (logits + offset, *others)

    look, hooks = True, [node.register_forward_pre_hook(add) for node in nodes]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            counted()
        look = False
        named = {name: tuple(p.shape) for name, p in model.named_parameters() if "logits_of_call_" in name}
        yield counted, named
    finally:
        for hook in hooks:
            hook.remove()
        for node in nodes:
            for name in [n for n in node._parameters if n.startswith("logits_of_call_")]:
                del node._parameters[name]


def node_of(parameter: str) -> str:
    """ "layers.1.logits_of_call_2" -> "node 'layers.1' (call 2)"."""
    path, _, call = parameter.rpartition(".logits_of_call_")
    return f"node '{path}'" + (f" (call {call})" if call != "0" else "")
