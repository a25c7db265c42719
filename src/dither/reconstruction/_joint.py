"""Several kinds of variables side by side, such as an image and its label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from dither.corruption import sizes_of, split
from dither.reconstruction._base import Reconstruction


class Joint(Reconstruction):
    """Parts of the units, independent given the outputs, each with a family of its own.

    >>> from dither.reconstruction import Bernoulli, Categorical
    >>> pixels_and_label = Joint([(Bernoulli(), 784), (Categorical(10), 10)])
    >>> pixels_and_label.outputs(794)
    794
    """

    def __init__(self, parts: Sequence[tuple[Reconstruction, int]]) -> None:
        super().__init__()
        self.parts, self.sizes = nn.ModuleList(part for part, _ in parts), sizes_of(parts)
        self.factorised = all(part.factorised for part, _ in parts)

    def outputs(self, units: int) -> int:
        if units != sum(self.sizes):
            raise ValueError(f"the parts {self.sizes} add up to {sum(self.sizes)} units, the model has {units}")
        return sum(self._widths())

    def _widths(self) -> list[int]:
        return [part.outputs(size) for part, size in zip(self._parts(), self.sizes, strict=True)]

    def _parts(self) -> Iterator[Reconstruction]:
        yield from self.parts  # type: ignore[misc]

    def _pieces(self, outputs: Tensor, x: Tensor) -> Iterator[tuple[Reconstruction, Tensor, Tensor]]:
        yield from zip(self._parts(), split(outputs, self._widths()), split(x, self.sizes), strict=True)

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        return torch.stack([part.log_prob(a, b) for part, a, b in self._pieces(outputs, x)]).sum(0)

    def terms(self, outputs: Tensor, x: Tensor) -> Tensor:
        return torch.cat([part.terms(a, b) for part, a, b in self._pieces(outputs, x)], -1)

    def mean(self, outputs: Tensor) -> Tensor:
        pieces = zip(self._parts(), split(outputs, self._widths()), strict=True)
        return torch.cat([part.mean(a) for part, a in pieces], -1)

    def sample_unchecked(self, outputs: Tensor, clamp: Tensor | None, values: Tensor | None) -> Tensor:
        clamps = [None] * len(self.sizes) if clamp is None else split(clamp, self.sizes)
        pieces_of_values = [None] * len(self.sizes) if values is None else split(values, self.sizes)
        pieces = zip(self._parts(), split(outputs, self._widths()), clamps, pieces_of_values, strict=True)
        return torch.cat([part.sample_unchecked(a, c, v) for part, a, c, v in pieces], -1)

    def check(self, x: Tensor) -> None:
        for part, piece in zip(self._parts(), split(x, self.sizes), strict=True):
            part.check(piece)
