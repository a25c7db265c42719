"""Combinations of parts one after the other, for closures whose samples decide what is sampled next."""

from __future__ import annotations

import torch
from torch import Tensor

AVERAGE = "estimate by a long average, dither.audit(..., reference='average')"
DEPENDS = (
    "the nodes called, or their shapes, change from one run of the closure to the next. Where samples decide, as in a net that "
    "stops early, enumerate with vectorize=False; a closure that changes by itself, by a counter or a generator of its own, "
    f"cannot be enumerated: {AVERAGE}"
)


class CannotEnumerate(ValueError):
    """The closure's outcomes cannot be summed over."""


class Path:
    """The parts that one run takes, unit by unit, and after it those of the next run: the last unit's part moves first, so that
    each run may draw other units behind it. A part that cannot be takes one run, whatever is drawn behind it."""

    def __init__(self, last: bool = False) -> None:
        self.last = last
        self.parts: list[int] = []
        self._numbers: list[int] = []  # how many parts each unit has
        self._drawn = 0
        self._impossible: int | None = None

    def take(self, number: int, count: int) -> Tensor:
        """The parts of the next `count` units of this run, which have `number` parts each: the first ones (`last`: the last
        ones) where the path has not come by before."""
        start, self._drawn = self._drawn, self._drawn + count
        if any(known != number for known in self._numbers[start : self._drawn]):
            raise CannotEnumerate(DEPENDS)
        fresh = self._drawn - len(self.parts)
        self.parts += [number - 1 if self.last else 0] * fresh
        self._numbers += [number] * fresh
        return torch.tensor(self.parts[start : self._drawn], dtype=torch.int64, device="cpu")

    def forbid(self, impossible: Tensor) -> None:
        """Of the units that were taken last, (count,) bool: whose part cannot be."""
        if self._impossible is None and bool(impossible.any()):
            self._impossible = self._drawn - len(impossible) + int(impossible.nonzero()[0])

    def next(self) -> bool:
        """Move to the next run's parts; False after the last."""
        if self._drawn != len(self.parts):
            raise CannotEnumerate(DEPENDS)
        end = len(self.parts) if self._impossible is None else self._impossible + 1
        while end and self.parts[end - 1] == self._numbers[end - 1] - 1:
            end -= 1
        del self.parts[end:], self._numbers[end:]
        self._drawn, self._impossible = 0, None
        if end:
            self.parts[-1] += 1
        return end > 0
