"""What is learned of each node besides parameters, such as moving averages: kept, saved and loaded by the nodes' names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dither.estimators.core.parts import Part
from dither.nodes import plain_name

Entries = dict[str, dict[str, Tensor]]  # node -> part -> tensor


class NodeState(Part):
    """Tensors by node and part. In a state each has the key NODE.part.

    A state says of every node in `nodes` what was learned of it, be it nothing, or of none at all: so a node that is missing
    in a state is told from one that was not called yet. Wrappers' prefixes in the names of nodes are understood.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nodes: tuple[str, ...] = ()  # those that a state is to name; none: any

    @abstractmethod
    def entries(self) -> Entries:
        """What has been learned."""

    @abstractmethod
    def restore(self, entries: Entries) -> None:
        """Have learned this and nothing else. Raises ValueError, before anything is changed, for entries that make no sense."""

    @abstractmethod
    def convert(self, f: Callable[[Tensor], Tensor]) -> None:
        """Replace the tensors that a module's .to() moves."""

    @abstractmethod
    def nothing(self) -> dict[str, Tensor]:
        """What a state says of a node of which nothing has been learned; `restore` may be given it."""

    def key(self, node: str, part: str) -> str:
        return f"{node}.{part}"

    def parsed(self, key: str) -> tuple[str, str]:
        """(node, part) of a key."""
        node, _, part = key.rpartition(".")
        return node, part

    # --- as a module's state ------------------------------------------------------------------------------------------
    def own_state(self) -> dict[str, Tensor]:
        entries = self.entries()
        entries |= {name: self.nothing() for name in self._unnamed(entries)}
        return {self.key(name, part): tensor for name, parts in entries.items() for part, tensor in parts.items()}

    def load_own_state(self, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
        entries: Entries = {}
        unknown = []
        for key, tensor in state.items():
            node, part = self.parsed(key)
            own = self._own_name(node)
            if not node or not part or own is None:
                unknown.append(key)
            else:
                entries.setdefault(own, {})[part] = tensor.clone()
        self.restore(entries)
        return [self.key(name, part) for name in self._unnamed(entries) for part in self.nothing()], unknown

    def _unnamed(self, entries: Entries) -> list[str]:
        """The nodes of which nothing is said, where something is said of others."""
        named = {name.partition(":")[0] for name in entries}
        return [name for name in self.nodes if name not in named] if named else []

    def _own_name(self, name: str) -> str | None:
        """What a node of a state is called here, whatever wrappers the models were or are in; None: it is no node of ours."""
        plain = plain_name(name)
        for candidate in (plain, plain.removeprefix("module."), f"module.{plain}"):
            if not self.nodes or candidate.partition(":")[0] in self.nodes:
                return candidate
        return None

    def hint(self) -> str:
        return f"\n\tThe nodes of the model are {', '.join(self.nodes)}" if self.nodes else ""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        with torch.no_grad():
            self.convert(once_each(lambda tensor: moved(fn, tensor)))
        return self


def once_each(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """f, of which equal tensors have equal results: nodes that share their averages go on sharing them."""
    done: list[tuple[Tensor, Tensor]] = []

    def converted(tensor: Tensor) -> Tensor:
        for before, after in done:
            if before is tensor:
                return after
        done.append((tensor, f(tensor)))
        return done[-1][1]

    return converted


def moved(convert: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """A statistic as a module's conversion moves it; not into less than single precision, in which averages would stand
    still."""
    other = convert(tensor)
    return other if other.dtype.itemsize >= min(tensor.dtype.itemsize, 4) else tensor.to(other.device)
