"""Products with a weight that a walk uses many times, up and down: their gradients with respect to it are one product.

Back-propagation by itself makes a matrix of the weight's size for every use and adds them up. With 8 uses of 784 x 1500
that is a tenth of a training step in memory traffic. Here the factors of all uses wait, and are multiplied once, when
the last use has been differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dither import kernels


class UpDown(Protocol):
    """The linear maps between two layers in one forward pass; `add` is a bias or the rest of a sum."""

    def up(self, x: Tensor, add: Tensor | None = None) -> Tensor: ...

    def down(self, h: Tensor, add: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Pair:
    """Two factors (batch, units) of a part of the weight's gradient, above^T below.

    task        the backward pass that they are of
    biased      which of the two, "above" or "below", is also a part of a bias' gradient; "" for neither
    """

    task: int
    above: Tensor
    below: Tensor
    biased: str


class Products:
    """The products of one forward pass with one weight (above, below): `up(x)` = x W^T, `down(h)` = h W.

    Both take what is to be added: the rest of a sum, (batch, units), or a bias (units,). The gradients of the biases of
    the layers above and below are gathered too. Inside compilers and transforms, where gradients are of another kind,
    the products are plain.
    """

    def __init__(self, weight: Tensor, above: Tensor | None = None, below: Tensor | None = None) -> None:
        self.pairs: list[Pair] = []
        self.biases = above, below
        self.gathers = torch.is_grad_enabled() and weight.requires_grad and kernels.plain(weight)
        if not weight.is_meta and torch.is_autocast_enabled(weight.device.type):
            weight = weight.to(torch.get_autocast_dtype(weight.device.type))
        self.weight = _Gather.apply(weight, above, below, self.pairs) if self.gathers else weight

    def up(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        return self._product(_Up, x, add, self.biases[0])

    def down(self, h: Tensor, add: Tensor | None = None) -> Tensor:
        return self._product(_Down, h, add, self.biases[1])

    def _product(self, kind: type[_Use], x: Tensor, add: Tensor | None, bias: Tensor | None) -> Tensor:
        x = x.to(self.weight.dtype)
        if self.gathers and kernels.plain(x):
            gathered = bias is not None and add is bias and bias.requires_grad
            return kind.apply(x, self.weight, bias.detach() if gathered else add, gathered, self.pairs)  # type: ignore
        return _sum_of(x, kind.matrix(self.weight), add)


def _sum_of(x: Tensor, matrix: Tensor, add: Tensor | None) -> Tensor:
    """x matrix + add."""
    if add is None:
        return x @ matrix
    if x.device.type == "cuda" and x.dim() == 2 and add.dtype == x.dtype:
        return torch.addmm(add, x, matrix)  # on the CPU it would copy `add` first
    return x @ matrix + add


def _task() -> int:
    return torch._C._current_graph_task_id()  # pyright: ignore[reportAttributeAccessIssue]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, weight: Tensor, above: Tensor | None, below: Tensor | None, pairs: list[Pair]
    ) -> Tensor:
        ctx.pairs = pairs
        ctx.set_materialize_grads(False)
        return weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, plain: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # Pairs of another backward pass are left over from one that asked for no gradient of the weight.
        pairs = sorted((p for p in ctx.pairs if p.task == _task()), key=lambda p: ("above", "", "below").index(p.biased))
        ctx.pairs.clear()
        if not pairs:
            return plain, None, None, None
        above, below = torch.cat([p.above for p in pairs]), torch.cat([p.below for p in pairs])
        of_above, of_below = (sum(len(p.above) for p in pairs if p.biased == side) for side in ("above", "below"))
        return (
            above.T @ below if plain is None else torch.addmm(plain, above.T, below),
            above[:of_above].sum(0) if of_above else None,
            below[-of_below:].sum(0) if of_below else None,
            None,
        )


class _Use(torch.autograd.Function):
    """A product x M + add, M the weight or its transpose."""

    @staticmethod
    def matrix(weight: Tensor) -> Tensor:
        raise NotImplementedError

    @classmethod
    def compute(cls, ctx: Any, x: Tensor, weight: Tensor, add: Tensor | None, biased: bool, pairs: list[Pair]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pairs, ctx.biased = pairs, biased
        if add is None or x.device.type == "cuda" or add.dtype != x.dtype:
            return _sum_of(x, cls.matrix(weight), add)
        return (x @ cls.matrix(weight)).add_(add)

    @classmethod
    def gradients(cls, ctx: Any, gradient: Tensor, weight: Tensor) -> tuple[Tensor | None, ...]:
        back = gradient.to(weight.dtype) @ cls.matrix(weight).T if ctx.needs_input_grad[0] else None
        add = gradient if ctx.needs_input_grad[2] else None  # autograd itself sums it for a bias
        return back, None, add, None, None


class _Up(_Use):
    @staticmethod
    def matrix(weight: Tensor) -> Tensor:
        return weight.T

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:  # type: ignore[override]
        return _Up.compute(ctx, *args)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        above = gradient.reshape(-1, gradient.shape[-1]).to(weight.dtype)
        ctx.pairs.append(Pair(_task(), above, x.flatten(0, -2), "above" if ctx.biased else ""))
        return _Up.gradients(ctx, gradient, weight)


class _Down(_Use):
    @staticmethod
    def matrix(weight: Tensor) -> Tensor:
        return weight

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:  # type: ignore[override]
        return _Down.compute(ctx, *args)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        h, weight = ctx.saved_tensors
        below = gradient.reshape(-1, gradient.shape[-1]).to(weight.dtype)
        ctx.pairs.append(Pair(_task(), h.flatten(0, -2), below, "below" if ctx.biased else ""))
        return _Down.gradients(ctx, gradient, weight)
