"""Who has taken which nodes over: an estimator while it runs its closure, an oracle while it replaces their noise.

A takeover holds for the present thread and asyncio task. Compiled code reads it from the nodes' attributes, which it can guard.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dither.scoped import Scoped


@dataclass(frozen=True)
class Role:
    """handler: what computes a node's output; source: what gives its noise."""

    handler: Any = None
    source: Any = None


@dataclass(frozen=True)
class Takeover:
    """roles: of the nodes taken over. only: who runs a closure in which no other node may sample. losses: of the estimators
    that the closure has called, with their names."""

    roles: dict[nn.Module, Role]
    only: str | None = None
    losses: list[tuple[str, Tensor]] = field(default_factory=list)


class ClosureError(RuntimeError):
    """A closure does what it may not, whichever way it is run."""


_FREE = Takeover({})
_NO_ROLE = Role()
_TAKEN: Scoped[Takeover] = Scoped(_FREE)


@contextmanager
def taken_over(nodes: Iterable[nn.Module], *, only: str | None = None, **roles: Any) -> Iterator[None]:
    """Give each node a `handler` and/or a `source`; on leaving, by return or exception, each has its former one back.

    only: the name of who runs a closure, in which nodes besides these are an error.
    """
    nodes, before = list(nodes), _TAKEN.get()
    # In a closure within another's closure the nodes of the other are no more covered than any.
    taken = {node: role for node, role in before.roles.items() if only is None or role.handler is None}
    for node in nodes:
        taken[node] = Role(**{**vars(before.roles.get(node, _NO_ROLE)), **roles})
    takeover = Takeover(taken, before.only, before.losses) if only is None else Takeover(taken, only)
    with _TAKEN.set(takeover), _shown_to_compiled_code(nodes, taken):
        yield


@contextmanager
def _shown_to_compiled_code(nodes: list[nn.Module], taken: dict[nn.Module, Role]) -> Iterator[None]:
    if "torch._dynamo" not in sys.modules:
        yield
        return
    before = [vars(node).get("_compiled_handler") for node in nodes]
    try:
        for node in nodes:
            vars(node)["_compiled_handler"] = taken[node].handler  # Module.__setattr__ takes ten times as long
        yield
    finally:
        for node, handler in zip(nodes, before, strict=True):
            vars(node)["_compiled_handler"] = handler


def present_role(node: nn.Module) -> Role:
    """The node's role, whoever runs a closure."""
    if torch.compiler.is_compiling():
        return Role(node._compiled_handler)
    return _TAKEN.get().roles.get(node, _NO_ROLE)


def role_of(node: nn.Module) -> Role:
    """The node's role in the present takeover. Raises ClosureError for a node outside of a closure's takeover."""
    if torch.compiler.is_compiling():
        return Role(node._compiled_handler)
    taken = _TAKEN.get()
    role = taken.roles.get(node)
    if role is not None:
        return role
    if taken.only is not None:
        raise ClosureError(
            f"{node.label} samples in the closure of {taken.only}, which does not cover it: build the "
            f"estimator on all modules that the closure runs, {taken.only.partition(' ')[0]}([encoder, decoder]), or compute "
            "what does not belong to the cost before the call"
        )
    return _NO_ROLE


def running() -> str | None:
    """Who runs a closure at present."""
    return None if torch.compiler.is_compiling() else _TAKEN.get().only


def inner_losses() -> list[tuple[str, Tensor]]:
    """Those of the estimators that the running closure has called, with their names."""
    return [] if torch.compiler.is_compiling() else _TAKEN.get().losses
