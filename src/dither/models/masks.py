"""Which variables are known, which are to be predicted: distributions of masks to train `models.any_conditional`.

>>> import torch
>>> from dither.models import masks
>>> masks.Independent(0.5)(3, 64, torch.device("cpu")).shape
torch.Size([3, 64])

The noise is keyed like that of corruptions: `torch.manual_seed` governs it, and it follows the examples
(`noise.examples`).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from dither import noise


class Masks(nn.Module):
    """Base: `(batch, variables, device) -> known`, bool (batch, variables), a new sample at every call; never all."""

    @abstractmethod
    def forward(self, batch: int, variables: int, device: torch.device) -> Tensor:
        """A sample: True where the variable is known."""

    def weight(self, known: Tensor) -> Tensor | None:
        """The weight of each example's cost, (batch,) float64; None: all of them are 1."""
        return None


class Uniform(Masks):
    """The number of known variables is uniform on 0 ... variables - 1, and so are the subsets of that size.

    Formula     weighted: n / (n - k) for k known of n. With it the cost of a factorised family is an unbiased estimate
                of the mean of -log P(x) over all n! orders, one unit after the other:
                mean_o sum_k -log P(x_o(k) | x_o(1..k-1))
                  = sum_k mean_|K|=k mean_i -log P(x_i | x_K)                  (1)
                  = n mean_k mean_|K|=k 1 / (n - k) sum_i -log P(x_i | x_K)    (2)
                (1): the first k in a random order are a random subset K, the next one i is uniform among the others.
                (2): the inner sum is the cost of the mask K.
    Source      Uria, Murray and Larochelle 2014, "A deep and tractable density estimator" (orderless NADE), Sec. 3.
    """

    def __init__(self, *, weighted: bool = True) -> None:
        super().__init__()
        self.weighted = weighted

    def extra_repr(self) -> str:
        return f"weighted={self.weighted}"

    def forward(self, batch: int, variables: int, device: torch.device) -> Tensor:
        u = uniforms(batch, variables + 1, device)
        number = below(u[:, -1:], variables)
        first = torch.arange(variables, device=device, dtype=torch.int64) < number
        return torch.zeros_like(first).scatter(1, u[:, :-1].argsort(1), first)

    def weight(self, known: Tensor) -> Tensor | None:
        return known.shape[1] / (~known).sum(1).double() if self.weighted else None


class Independent(Masks):
    """Each variable is known with probability p. Where all would be, one of them, sampled uniformly, is not."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(
                f"p is {p}: the probability of a known variable must be at least 0 and below 1; at 1 nothing is left to predict"
            )
        self.p = float(p)

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def forward(self, batch: int, variables: int, device: torch.device) -> Tensor:
        u = uniforms(batch, variables, device)
        return (u < self.p) & (u < u.amax(1, keepdim=True))


class Blocks(Masks):
    """A rectangle of an image is to be predicted: height and width uniform on 1 ... those of the image, then the place.

    shape       (height, width) of the image, whose pixels are the variables, row after row
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = image(shape)

    def extra_repr(self) -> str:
        return f"shape={self.shape}"

    def forward(self, batch: int, variables: int, device: torch.device) -> Tensor:
        if variables != self.shape[0] * self.shape[1]:
            raise ValueError(
                f"shape is {self.shape}, the model has {variables} variables: they must be the pixels of the image"
            )
        u = uniforms(batch, 4, device)
        inside = []
        for axis, length in enumerate(self.shape):
            size = 1 + below(u[:, axis : axis + 1], length)
            start = below(u[:, axis + 2 : axis + 3], length + 1 - size)
            place = torch.arange(length, device=device, dtype=torch.int64)
            inside.append((place >= start) & (place < start + size))
        rows, columns = inside
        return ~(rows.unsqueeze(2) & columns.unsqueeze(1)).flatten(1)


class Among(Masks):
    """One of several masks, uniformly: `known`, bool (masks, variables), True where the variable is known."""

    known: Tensor

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        if known.dtype != torch.bool or known.dim() != 2 or not len(known):
            raise ValueError(
                f"known has shape {tuple(known.shape)} and dtype {known.dtype}: bool masks (masks, variables) are needed, True "
                "where the variable is known"
            )
        if known.all(1).any():
            raise ValueError(
                f"known[{int(known.all(1).nonzero()[0])}] knows every variable: nothing is left to predict; leave it out"
            )
        self.register_buffer("known", known, persistent=False)

    def extra_repr(self) -> str:
        return f"masks={len(self.known)}"

    def forward(self, batch: int, variables: int, device: torch.device) -> Tensor:
        if variables != self.known.shape[1]:
            raise ValueError(f"known has {self.known.shape[1]} variables, the model has {variables}: they must be the same")
        return self.known.to(device)[below(uniforms(batch, 1, device)[:, 0], len(self.known))]


class Halves(Among):
    """The left, right, top or bottom half of an image of `shape` (height, width) is known, sampled uniformly."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__(torch.stack(list(halves(shape).values())))


def halves(shape: tuple[int, int]) -> dict[str, Tensor]:
    """{"left", "right", "top", "bottom"}: the masks (pixels,) in which that half is known, and a middle line is not."""
    height, width = image(shape)
    if height < 2 or width < 2:
        raise ValueError(f"shape is {shape}: an image with halves has at least 2 x 2 pixels")
    row, column = (
        torch.arange(height, dtype=torch.int64, device="cpu").unsqueeze(1),
        torch.arange(width, dtype=torch.int64, device="cpu"),
    )
    known = {
        "left": column < width // 2,
        "right": column >= width - width // 2,
        "top": row < height // 2,
        "bottom": row >= height - height // 2,
    }
    return {name: mask.expand(height, width).flatten() for name, mask in known.items()}


def image(shape: tuple[int, int]) -> tuple[int, int]:
    if len(shape) != 2 or not all(type(side) is int and side > 0 for side in shape):
        raise ValueError(f"shape is {shape}: (height, width) of the image is needed, two positive integers")
    return shape[0], shape[1]


def uniforms(batch: int, count: int, device: torch.device) -> Tensor:
    """float32 (batch, count) in (0, 1) that follow the examples."""
    return noise.fresh("uniform", (batch, count), device).draw(torch.empty((), device=device, dtype=torch.float32))


def below(u: Tensor, count: int | Tensor) -> Tensor:
    """Uniform on 0 ... count - 1, from u uniform in (0, 1)."""
    return torch.minimum((u * count).long(), torch.as_tensor(count, device=u.device, dtype=torch.int64) - 1)
