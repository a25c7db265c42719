"""The smallest net that has what positions are about: one or two nodes of one unit each, and a cost that is curved in both."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dither.nodes import Node

After = Callable[[Tensor, Tensor], Tensor]  # (a node's output, its logits) -> what the net goes on with
Make = Callable[[], Node]
_EVERY = slice(None)


class Tiny(nn.Module):
    """logits -> node [-> Linear -> node], (rows, nodes) numbers.

    make: builds a node for logits (batch, units), or (batch, units, categories) if it is one-hot. rows: examples, all alike.
    depth: one node or two. units: dimensions between batch and categories; () for none. separate: every row has parameters of
    its own in place of the Linear, so that the rows of their gradient are independent draws of one estimate.
    """

    def __init__(
        self,
        make: Make,
        *,
        rows: int = 1,
        depth: int = 2,
        dtype: torch.dtype = torch.float64,
        units: tuple[int, ...] = (1,),
        separate: bool = False,
    ) -> None:
        super().__init__()
        self.nodes = nn.ModuleList(make() for _ in range(depth))
        values = torch.tensor([0.4, -0.3], dtype=dtype, device="cpu")
        one_hot = self.layers[0].one_hot
        values = (values if one_hot else values[0]).expand(rows, *units, *([2] if one_hot else []))
        self.first = nn.Parameter(values.clone())
        self.second = nn.Parameter(-0.5 * values) if separate else _linear(values[0].numel(), dtype)

    @property
    def layers(self) -> list[Node]:
        return [node for node in self.nodes if isinstance(node, Node)]

    def forward(self, rows: slice | Tensor = _EVERY, after: After | None = None) -> Tensor:
        """rows: the examples that are looked at."""
        numbers, logits = [], 1.0 * self.first[rows]
        for node in self.layers:
            h = node(logits)
            h = h if after is None else after(h, logits)
            numbers.append(_number(h, node))
            if len(numbers) < len(self.nodes):
                logits = self._logits(h, numbers[-1], rows)
        return torch.cat(numbers, 1)

    def _logits(self, h: Tensor, number: Tensor, rows: slice | Tensor) -> Tensor:
        if isinstance(self.second, Tensor):
            return self.second[rows] + 2.0 * h * self.first[rows]
        logits = self.second(h if h.shape == number.shape else number)
        return logits if logits.dim() == h.dim() else logits.view(len(h), *self.first.shape[1:])

    def units(self) -> Tensor:
        """Numbers (rows, nodes) of nodes that do not see each other."""
        scales = (1.0, -0.5)
        return torch.cat([_number(node(s * self.first), node) for s, node in zip(scales, self.layers, strict=False)], 1)

    def cost(self, rows: slice | Tensor = _EVERY) -> Tensor:
        return terms(self(rows)).sum(1)


def terms(numbers: Tensor) -> Tensor:
    """A cost of two terms, (rows, 2), gentle enough for quadrature."""
    total = numbers.sum(1)
    return torch.stack((torch.sin(1.3 * total - 0.6), 0.5 * (numbers[:, -1] + 0.3).square() + 0.2 * total), 1)


def _number(h: Tensor, node: Node) -> Tensor:
    h = (h * torch.linspace(0.2, 1.1, h.shape[-1], dtype=h.dtype, device=h.device)).sum(-1) if node.one_hot else h
    return h if h.dim() == 2 else h.reshape(len(h), -1)


def _linear(outputs: int, dtype: torch.dtype) -> nn.Linear:
    linear = nn.Linear(1, outputs, dtype=dtype, device="cpu")
    with torch.no_grad():
        linear.weight.copy_(torch.linspace(0.6, -0.4, outputs, dtype=dtype, device="cpu").unsqueeze(1))
        linear.bias.fill_(-0.2)
    return linear
