"""Products with a weight that a walk uses many times, up and down: their gradients with respect to it are one product.

Back-propagation by itself makes a matrix of the weight's size for every use and adds them up; with 8 uses of 784 x 1500 that is
a tenth of a training step in memory traffic. Here the factors of all uses are kept, and multiplied once, when the last use
has been differentiated.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dither import kernels

Pair = tuple[int, Tensor, Tensor]  # (which backward pass, factor above, factor below), the factors (batch, units)


class Products:
    """The products of one forward pass with one weight (above, below): `up(x)` = x W^T, `down(h)` = h W.

    Plain products inside compilers and transforms, where gradients are of another kind.
    """

    def __init__(self, weight: Tensor) -> None:
        self.pairs: list[Pair] = []
        self.gathers = torch.is_grad_enabled() and weight.requires_grad and kernels.plain(weight)
        if torch.is_autocast_enabled(weight.device.type):
            weight = weight.to(torch.get_autocast_dtype(weight.device.type))
        self.weight = _Gather.apply(weight, self.pairs) if self.gathers else weight

    def up(self, x: Tensor) -> Tensor:
        if self.gathers and kernels.plain(x):
            return _Up.apply(x.to(self.weight.dtype), self.weight, self.pairs)  # type: ignore[return-value]
        return F.linear(x.to(self.weight.dtype), self.weight)

    def down(self, h: Tensor) -> Tensor:
        if self.gathers and kernels.plain(h):
            return _Down.apply(h.to(self.weight.dtype), self.weight, self.pairs)  # type: ignore[return-value]
        return h.to(self.weight.dtype) @ self.weight


def _task() -> int:
    return torch._C._current_graph_task_id()  # pyright: ignore[reportAttributeAccessIssue]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, pairs: list[Pair]) -> Tensor:  # type: ignore[override]
        ctx.pairs = pairs
        ctx.set_materialize_grads(False)
        return weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, plain: Tensor | None) -> tuple[Tensor | None, None]:  # type: ignore[override]
        # Pairs of another backward pass are left over from one that asked for no gradient of the weight.
        factors = [(above, below) for task, above, below in ctx.pairs if task == _task()]
        ctx.pairs.clear()
        if not factors:
            return plain, None
        above, below = torch.cat([a for a, _ in factors]), torch.cat([b for _, b in factors])
        return above.T @ below if plain is None else torch.addmm(plain, above.T, below), None


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, pairs: list[Pair]) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        ctx.pairs = pairs
        return F.linear(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        ctx.pairs.append((_task(), gradient.flatten(0, -2), x.flatten(0, -2)))
        return gradient @ weight if ctx.needs_input_grad[0] else None, None, None


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, pairs: list[Pair]) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(h, weight)
        ctx.pairs = pairs
        return h @ weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:  # type: ignore[override]
        h, weight = ctx.saved_tensors
        ctx.pairs.append((_task(), h.flatten(0, -2), gradient.flatten(0, -2)))
        return F.linear(gradient, weight) if ctx.needs_input_grad[0] else None, None, None
