"""What a closure returns, for all that runs one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor


class CostAlone:
    """A closure as one that returns its cost alone: the first of a pair (cost, aux). For what runs a closure and has no use for
    what else it returns."""

    args: tuple[Any, ...] = ()  # with `func` and `keywords`, what functools.partial says of what it wraps
    keywords: Mapping[str, Any] = {}

    def __init__(self, closure: Callable[[], Any]) -> None:
        self.func = closure

    def __call__(self) -> Tensor:
        result = self.func()
        return cast(Tensor, result[0] if type(result) is tuple and len(result) == 2 else result)


def cost_alone(closure: Callable[[], Any]) -> Callable[[], Tensor]:
    return closure if isinstance(closure, CostAlone) else CostAlone(closure)
