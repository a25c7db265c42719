"""What a closure computes besides its cost: logits for an accuracy, a hidden state, a balance loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from dither.nodes import CostAlone

Aux = tuple[list[Tensor], Any, list[Any]]  # the tensors of one run, where they stand, and what else there is


class WithAux(CostAlone):
    """A closure as estimators run it: it returns the cost alone. What came with it is taken after each run (`take`), because a
    tensor of a vmap is dead when the vmap is over, and handed out by the call (`returned`)."""

    def __init__(self, closure: Callable[[], Any], has_aux: bool | None, detach: bool) -> None:
        super().__init__(closure)
        self.has_aux, self.detach = has_aux, detach
        self.aux: Any = None
        self.found = False
        self._result: Any = None

    def __call__(self) -> Tensor:
        result = self.func()
        self.found = False
        if self.has_aux is False or type(result) is not tuple:
            if self.has_aux:
                raise TypeError(
                    f"the closure returned {type(result).__name__}: with has_aux=True it must return (cost, aux), the cost per "
                    "example and whatever else is wanted"
                )
            return result
        if len(result) != 2:
            raise TypeError(f"the closure returned a tuple of {len(result)}: it must return its cost, or (cost, aux)")
        self.found = True
        cost, aux = result
        self.aux = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, aux) if self.detach else aux
        return cost

    def take(self) -> Aux | None:
        """What the last run left besides its cost."""
        if not self.found:
            return None
        leaves, spec = tree_flatten(self.aux)
        self.aux = None
        for leaf in leaves:
            _refuse_hidden(leaf)
        return [t for t in leaves if isinstance(t, Tensor)], spec, [None if isinstance(t, Tensor) else (t,) for t in leaves]

    def give(self, result: Any) -> None:
        """What the call is to hand out."""
        self.found, self._result = True, result

    def give_last(self) -> None:
        """Hand out what the last run left, by itself."""
        if (aux := self.take()) is not None:
            self.give(of_all_runs([aux]))

    def returned(self, loss: Tensor) -> Any:
        """What the call returns."""
        if not self.found and self._result is None:
            return loss
        result, self._result, self.aux = self._result, None, None
        return loss, result


def put_together(tensors: Sequence[Tensor], spec: Any, others: Sequence[Any]) -> Any:
    """An auxiliary output again, of its tensors and of what else there is."""
    left = iter(tensors)
    return tree_unflatten([next(left) if other is None else other[0] for other in others], spec)


def of_all_runs(runs: Sequence[Aux | None]) -> Any:
    """One auxiliary output of several runs': tensors stacked; what is no tensor, or has another shape in another run, as a list
    of theirs, unless it is the same in all. Where runs return different structures, a list of those."""
    known = [run for run in runs if run is not None]
    if len(known) != len(runs) or any(run[1] != known[0][1] for run in known):
        return [None if run is None else put_together(*run) for run in runs]
    if len(known) == 1:
        return put_together(*known[0])
    leaves = [_leaves(run) for run in known]
    return tree_unflatten([_together(values) for values in zip(*leaves, strict=True)], known[0][1])


def _leaves(run: Aux) -> list[Any]:
    left = iter(run[0])
    return [next(left) if other is None else other[0] for other in run[2]]


def _together(values: tuple[Any, ...]) -> Any:
    first = values[0]
    if all(isinstance(value, Tensor) for value in values):
        alike = all(v.shape == first.shape and v.dtype == first.dtype and v.device == first.device for v in values)
        return torch.stack(values) if alike else list(values)
    return first if all(_same(value, first) for value in values) else list(values)


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other) or isinstance(one, Tensor):
        return False
    try:
        return bool(one == other)
    except (RuntimeError, TypeError, ValueError):  # arrays and the like, which compare their elements
        return False


def _refuse_hidden(leaf: Any) -> None:
    """Raise for an object that holds tensors where nobody finds them: those of a vmap would be dead."""
    held = [name for name, value in getattr(leaf, "__dict__", {}).items() if isinstance(value, Tensor)]
    if held and not isinstance(leaf, (Tensor, nn.Module)):
        raise TypeError(
            f"aux holds a {type(leaf).__name__}, whose attribute {held[0]!r} is a tensor that cannot be found there: return "
            "the tensors themselves, in a dict, tuple or list, or register the class with torch.utils._pytree"
        )
