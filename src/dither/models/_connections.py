"""What lies between two layers of a GSN: products upwards and downwards, tied or not."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither.models._products import Products, UpDown


class Connection(nn.Module):
    """Base: linear maps between a layer of shape `below` and one of shape `above`, without their biases.

    outputs     how many numbers it gives downwards: as many as `below` has, or for the lowest connection as many as the
                reconstruction distribution needs
    """

    below: tuple[int, ...]
    above: tuple[int, ...]
    bias_shape: tuple[int, ...]  # of the layer above
    outputs: int

    @abstractmethod
    def products(self, above: Tensor | None = None, below: Tensor | None = None) -> UpDown:
        """The maps for one forward pass. above, below: the biases that they may have to add."""


class Dense(Connection):
    """(batch, below) <-> (batch, above) by a matrix. tied: the same matrix both ways.

    Weights start uniform in +-sqrt(6 / (below + above)), as the authors' do.
    """

    def __init__(self, below: int | tuple[int, ...], above: int, *, tied: bool = True, outputs: int | None = None) -> None:
        super().__init__()
        self.below = (below,) if isinstance(below, int) else tuple(below)
        self.above = self.bias_shape = (above,)
        units = math.prod(self.below)
        self.outputs = units if outputs is None else outputs
        if tied and self.outputs != units:
            raise ValueError(f"outputs is {outputs}, below {units}: tied weights give as many as they take; use tied=False")
        self.weight = nn.Parameter(_uniform(above, units))
        self.weight_down = None if tied else nn.Parameter(_uniform(above, self.outputs))

    def extra_repr(self) -> str:
        return f"{self.below}, {self.above[0]}, tied={self.weight_down is None}"

    def products(self, above: Tensor | None = None, below: Tensor | None = None) -> UpDown:
        up = Products(self.weight, above, below)
        down = up if self.weight_down is None else Products(self.weight_down, None, below)
        return _DenseProducts(up, down, self.below)


class _DenseProducts:
    def __init__(self, up: Products, down: Products, below: tuple[int, ...]) -> None:
        self._up, self._down, self._below = up, down, below

    def up(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        return self._up.up(x if x.dim() == 2 else x.flatten(1), add)

    def down(self, h: Tensor, add: Tensor | None = None) -> Tensor:
        if len(self._below) == 1:
            return self._down.down(h, add)
        below = self._down.down(h).view(len(h), *self._below)
        return below if add is None else below + add


class Conv2d(Connection):
    """(batch, *below) <-> (batch, channels, rows, columns) by a convolution and its transpose.

    below       (channels, rows, columns); the visible layer may come flattened
    outputs     as of `Dense`, in images of `below`'s size, so a multiple of rows x columns
    """

    def __init__(
        self,
        below: tuple[int, int, int],
        channels: int,
        *,
        kernel: int = 5,
        stride: int = 2,
        tied: bool = True,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.below, self.stride, self.padding = tuple(below), stride, kernel // 2
        rows, columns = ((side + 2 * self.padding - kernel) // stride + 1 for side in below[1:])
        self.above, self.bias_shape = (channels, rows, columns), (channels, 1, 1)
        extra = (a - ((b - 1) * stride - 2 * self.padding + kernel) for a, b in zip(below[1:], (rows, columns), strict=True))
        self.extra = next(extra), next(extra)
        self.outputs = math.prod(below) if outputs is None else outputs
        planes, rest = divmod(self.outputs, below[1] * below[2])
        if rest or (tied and planes != below[0]):
            raise ValueError(
                f"outputs is {outputs}: images of {below[1]} x {below[2]} are needed, with tied weights {below[0]} of them; "
                "use tied=False"
            )
        fan = kernel * kernel / stride**2
        self.weight = nn.Parameter(_uniform_kernel(channels, below[0], kernel, fan))
        self.weight_down = None if tied else nn.Parameter(_uniform_kernel(channels, planes, kernel, fan))

    def extra_repr(self) -> str:
        return f"{self.below} -> {self.above}, kernel={self.weight.shape[-1]}, tied={self.weight_down is None}"

    def products(self, above: Tensor | None = None, below: Tensor | None = None) -> UpDown:
        return self

    def up(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        above = F.conv2d(x.reshape(len(x), *self.below), self.weight, stride=self.stride, padding=self.padding)
        return above if add is None else above + add

    def down(self, h: Tensor, add: Tensor | None = None) -> Tensor:
        weight = self.weight if self.weight_down is None else self.weight_down
        below = F.conv_transpose2d(h, weight, stride=self.stride, padding=self.padding, output_padding=self.extra)
        return below if add is None else below + add


def _uniform(above: int, below: int) -> Tensor:
    # ambient: the parameters of a layer
    return torch.empty(above, below).uniform_(-1, 1) * math.sqrt(6 / (above + below))


def _uniform_kernel(above: int, below: int, kernel: int, fan: float) -> Tensor:
    # ambient: the parameters of a layer
    return torch.empty(above, below, kernel, kernel).uniform_(-1, 1) * math.sqrt(6 / (above * fan + below * kernel**2))
