"""Where values come from that no sample taints: which tensors from before the run decided them, if they can be told.

A mask that was looked at has the same values in another run if those tensors have, and the run does the same (`structure`). Of
random numbers, of Python's floating-point numbers other than 0, 1 and infinity, of memory that was seen by no operator nothing
can be told.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

PLAIN = {0.0, 1.0, -1.0, math.inf, -math.inf}  # what a mask is made of; others may be annealed
_RANDOM = {"bernoulli", "uniform", "normal", "random", "exponential", "cauchy", "log_normal", "geometric", "as_strided", "set"}


class Origins:
    """The origins of memory, by address: addresses of memory from before the run; None: out of sight.

    consulted: from where the values came that were looked at. hidden: whether some came from out of sight."""

    def __init__(self, before: Collection[int]) -> None:
        self._before = before
        self._of: dict[int, frozenset[int] | None] = {}
        self.consulted: set[int] = set()
        self.hidden = False

    def forget(self, address: int) -> None:
        self._of.pop(address, None)

    def hide(self, value: Any) -> None:
        storage = value.untyped_storage() if isinstance(value, Tensor) else value
        self._of[storage.data_ptr()] = None

    def consult(self, tensor: Tensor) -> bool:
        """Its values were looked at."""
        origin = self.of(tensor)
        if origin is None:
            self.hidden = True
        else:
            self.consulted |= origin
        return True

    def of(self, tensor: Tensor) -> frozenset[int] | None:
        address = tensor.untyped_storage().data_ptr()
        own = self._of.get(address, frozenset())
        return own if own is None or address not in self._before else own | {address}

    def follow(self, func: Any, inputs: list[Any], outputs: list[Tensor], written: list[Tensor]) -> None:
        """What an operator made, or changed, is of all that it was given."""
        if not outputs and not written:
            return
        total = self._of_inputs(func, inputs)
        for tensor in written + outputs:
            address = tensor.untyped_storage().data_ptr()
            if total is None:
                self._of[address] = None
            elif total - {address}:
                own = self._of.get(address, frozenset())
                self._of[address] = own if own is None else own | total - {address}

    def _of_inputs(self, func: Any, inputs: list[Any]) -> frozenset[int] | None:
        space, _, name = func._schema.name.partition("::")
        if space != "aten" or torch.Tag.nondeterministic_seeded in func.tags or name.rstrip("_") in _RANDOM:
            return None
        total: frozenset[int] = frozenset()
        for value in inputs:
            if isinstance(value, Tensor):
                origin = self.of(value)
                if origin is None:
                    return None
                total = total | origin
            elif isinstance(value, float) and value not in PLAIN:
                return None
        return total
