"""What the operations of a traced run did to the taint, to say afterwards which of them brought two units together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dither.estimators.core.tracing.layouts import compact
from dither.estimators.core.tracing.lines import line_of_user
from dither.estimators.core.tracing.rules import Operator


@dataclass
class _Note:
    name: str
    where: str
    inputs: list[Tensor]
    output: Tensor

    def __str__(self) -> str:
        return f"{self.name} ({self.where})" if self.where else self.name


class Notes:
    """A note for each operation, in their order."""

    def __init__(self) -> None:
        self._notes: list[_Note] = []

    def clear(self) -> None:
        self._notes.clear()

    def add(self, op: Operator, mask: Tensor) -> None:
        inputs = [mask for _, mask in op.masks.tainted]
        self._notes.append(_Note(op.name.lstrip("_"), line_of_user(), inputs, compact(mask)))

    def meeting(self, one: int, other: int) -> str | None:
        """The first operation that made an element depend on both sources where no element of its inputs did."""

        def meet(mask: Tensor) -> bool:
            return bool((mask[one] & mask[other]).any())

        return next((str(n) for n in self._notes if meet(n.output) and not any(meet(mask) for mask in n.inputs)), None)

    def spread(self, source: int) -> str | None:
        """The first operation that made all of its output depend on a source of which a part of its input did."""

        def partly(mask: Tensor) -> bool:
            return bool(mask[source].any()) and not bool(mask[source].all())

        return next((str(n) for n in self._notes if bool(n.output[source].all()) and any(map(partly, n.inputs))), None)
