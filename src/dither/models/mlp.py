"""A multilayer perceptron whose hidden layers take hard, random decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dither.nodes import Bernoulli


class StochasticMLP(nn.Module):
    """Linear -> node -> Linear -> node -> ... -> Linear: every hidden layer is a layer of stochastic nodes.

    Formula     h_0 = x flattened;  h_k ~ node(W_k h_{k-1} + b_k);  logits = W_n h_{n-1} + b_n
    Shapes      x (batch, ...) with prod(...) == sizes[0]  ->  logits (batch, sizes[-1])
    Raises      ValueError for fewer than two sizes, a size below one, or an input of another width.
    Reference   Bengio 2013, Sec. 3.

    >>> import torch
    >>> net = StochasticMLP(sizes=(64, 200, 10))
    >>> net(torch.zeros(5, 8, 8)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        sizes: Sequence[int] = (64, 200, 200, 10),
        *,
        node: Callable[[], nn.Module] = Bernoulli,
        gain: float = 1.0,
    ) -> None:
        """`node` is called without arguments once per hidden layer, and gives the module that samples it.

        `gain` scales the initial weights in front of the nodes. At torch's own scale (1.0) units start as
        almost fair coins. With a gain of several they start almost certain, and the score function learns faster.
        """
        super().__init__()
        sizes = tuple(sizes)
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(
                f"sizes is {sizes}, expected at least two positive widths (input, hidden..., output): "
                "pass for example sizes=(64, 200, 10)"
            )
        self.sizes = sizes
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        if not gain > 0:
            raise ValueError(f"gain is {gain}, expected a positive number: 1.0 keeps torch's own initial weights")
        with torch.no_grad():
            for linear in list(self.linears)[:-1]:
                linear.get_parameter("weight").mul_(gain)
        self.nodes = nn.ModuleList(node() for _ in sizes[1:-1])

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, ...) -> logits (batch, sizes[-1]); one sample of the hidden layers per call."""
        h = x.flatten(1)
        if h.shape[1] != self.sizes[0]:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, that is {h.shape[1]} values per example; this network was "
                f"built for {self.sizes[0]}: build it with sizes=({h.shape[1]}, ...) or give it other data"
            )
        for linear, node in zip(self.linears, self.nodes, strict=False):
            h = node(linear(h))
        return self.linears[-1](h)
