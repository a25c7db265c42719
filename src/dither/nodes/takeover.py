"""Who has taken which nodes over: an estimator while it runs its closure, an oracle while it replaces their noise.

A takeover holds for the present thread and asyncio task. Compiled code reads it from the nodes' attributes, which it can guard.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dither.scoped import Scoped


class Role(NamedTuple):
    """handler: what computes a node's output; source: what gives its noise."""

    handler: Any = None
    source: Any = None


class Takeover(NamedTuple):
    """roles: of the nodes taken over. only: who runs a closure in which no other node may sample. losses: of the estimators
    that the closure has called, with their names."""

    roles: dict[nn.Module, Role]
    only: str | None
    losses: list[tuple[str, Tensor]]


class ClosureError(RuntimeError):
    """A closure does what it may not, whichever way it is run."""


_FREE = Takeover({}, None, [])
_NO_ROLE = Role()
_TAKEN: Scoped[Takeover] = Scoped(_FREE)


class taken_over:
    """Give each node a `handler` and/or a `source`; on leaving, by return or exception, each has its former one back.

    only: the name of who runs a closure, in which nodes besides these are an error. A context manager by hand, not from a
    generator: every call of an estimator enters one.
    """

    __slots__ = ("_nodes", "_only", "_roles", "_scope", "_shown")

    def __init__(self, nodes: Iterable[nn.Module], *, only: str | None = None, **roles: Any) -> None:
        self._nodes, self._only, self._roles = list(nodes), only, roles

    def __enter__(self) -> None:
        before, only, new = _TAKEN.get(), self._only, Role(**self._roles)
        # In a closure within another's closure the nodes of the other are no more covered than any.
        taken = {node: role for node, role in before.roles.items() if only is None or role.handler is None}
        for node in self._nodes:
            former = before.roles.get(node)
            taken[node] = new if former is None else former._replace(**self._roles)
        self._scope = _TAKEN.set(Takeover(taken, before.only, before.losses) if only is None else Takeover(taken, only, []))
        self._scope.__enter__()
        self._shown = _show_to_compiled_code(self._nodes, taken) if "torch._dynamo" in sys.modules else None

    def __exit__(self, *_: object) -> None:
        for node, handler in self._shown or ():
            vars(node)["_compiled_handler"] = handler
        self._scope.__exit__(None, None, None)


def _show_to_compiled_code(nodes: list[nn.Module], taken: dict[nn.Module, Role]) -> list[tuple[nn.Module, Any]]:
    """What compiled code saw before, to be shown again."""
    before = [(node, vars(node).get("_compiled_handler")) for node in nodes]
    for node in nodes:
        vars(node)["_compiled_handler"] = taken[node].handler  # Module.__setattr__ takes ten times as long
    return before


def present_role(node: nn.Module) -> Role:
    """The node's role, whoever runs a closure."""
    if torch.compiler.is_compiling():
        return Role(node._compiled_handler)
    return _TAKEN.present().roles.get(node, _NO_ROLE)


def role_of(node: nn.Module) -> Role:
    """The node's role in the present takeover. Raises ClosureError for a node outside of a closure's takeover."""
    if torch.compiler.is_compiling():
        return Role(node._compiled_handler)
    taken = _TAKEN.present()
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
    return None if torch.compiler.is_compiling() else _TAKEN.present().only


def inner_losses() -> list[tuple[str, Tensor]]:
    """Those of the estimators that the running closure has called, with their names."""
    return [] if torch.compiler.is_compiling() else _TAKEN.present().losses
