"""Generative stochastic networks: deep, recurrent denoising models with noise in their hidden layers too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dither import nodes
from dither.corruption import Corruption, SaltAndPepper
from dither.models._connections import Connection, Conv2d, Dense
from dither.models._denoising import Denoising, Geometric, Hidden, Shared
from dither.models._products import UpDown
from dither.reconstruction import Bernoulli, Reconstruction

__all__ = ["GSN", "Connection", "Conv2d", "Dense", "Geometric"]


class GSN(Denoising):
    """A chain over (x, h_1 ... h_K), unfolded like Gibbs sampling in a deep Boltzmann machine and back-propagated.

    Formula     h_i = node_i(W_i h_{i-1} + W_{i+1}^T h_{i+1} + b_i) with h_0 = x~ ~ corruption(x);
                outputs = W_1^T h_1 + b_0; x ~ reconstruction(outputs); cost = -sum over steps of log P(data | outputs)

    layers          widths (units, hidden 1, ..., hidden K), or K connections (`Dense`, `Conv2d`)
    hidden          a module for each hidden layer: any node, or a plain non-linearity. Default, as in the paper: Tanh
                    for the first layer, NoisyTanh(before=2, after=2) for the others
    corruption      of x; None only where a hidden layer is noisy
    tied            the weights down are those up, transposed; for widths only, connections say it themselves
    steps           of the walk in training, 2 K in the paper
    order           of the updates within a step: "odd-first" (h_1, h_3 ... then x, h_2, h_4 ..., as in the paper),
                    "even-first" (the even hidden layers, the odd ones, then x), "up-down", or groups of layers such as
                    ((1, 3), (0, 2)). Layers of one group are updated at once; x is 0, and belongs in the last group

    >>> import torch
    >>> model = GSN((64, 100, 100))
    >>> model.cost(torch.zeros(5, 64)).shape
    torch.Size([5])

    Hidden layers start at zero. Where the machine has bfloat16, `torch.autocast` halves the time of the products.
    Raises      ValueError for sizes, orders and noise that make no sense.
    Source      Bengio and Thibodeau-Laufer 2013, Sec. 4 to 7.
    """

    def __init__(
        self,
        layers: Sequence[int] | Sequence[Connection] = (784, 1500, 1500),
        *,
        hidden: Sequence[nn.Module] | None = None,
        corruption: Corruption | None = SaltAndPepper(0.4),  # noqa: B008
        reconstruction: Reconstruction | None = None,
        tied: bool = True,
        steps: int | Geometric = 4,
        order: str | Sequence[Sequence[int]] = "odd-first",
        through_samples: bool = False,
    ) -> None:
        reconstruction = reconstruction or Bernoulli()
        connections = _connections(layers, reconstruction, tied)
        super().__init__(math.prod(connections[0].below), corruption, reconstruction, steps, through_samples)
        depth = len(connections)
        hidden = (
            [nn.Tanh(), *(nodes.NoisyTanh(before=2.0, after=2.0) for _ in range(depth - 1))] if hidden is None else list(hidden)
        )
        if len(hidden) != depth:
            raise ValueError(f"hidden has {len(hidden)} modules for {depth} hidden layers: one for each is needed")
        self.connections, self.hidden = nn.ModuleList(connections), nn.ModuleList(hidden)
        self.order = _groups(order, depth)
        shapes = [(connections[0].outputs,), *(c.bias_shape for c in connections)]
        # ambient: the parameters of a layer
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in shapes)
        if connections[0].outputs != reconstruction.outputs(self.units):
            raise ValueError(
                f"the lowest connection gives {connections[0].outputs} outputs, {reconstruction} of {self.units} units needs "
                f"{reconstruction.outputs(self.units)}: build it with outputs={reconstruction.outputs(self.units)}"
            )
        if corruption is None and not self.is_noisy():
            raise ValueError("there is no corruption and no noisy hidden layer: the identity is all there is to learn")

    def is_noisy(self) -> bool:
        return any(
            isinstance(node, nodes.Node) and not (isinstance(node, nodes.NoisyTanh) and node.before == node.after == 0)
            for node in self.hidden.modules()
        )

    def products(self) -> list[UpDown]:
        biases = pairwise(self.biases)
        return [c.products(above, below) for c, (below, above) in zip(self.connections, biases, strict=True)]  # type: ignore

    def reconstruct(
        self, corrupted: Tensor, hidden: Hidden = (), products: Shared = None, last: bool = False
    ) -> tuple[Tensor, Hidden]:
        products = products or self.products()
        states: list[Tensor | None] = [corrupted, *(hidden or [None] * len(self.hidden))]
        outputs = None
        for group in self.order:
            updated = {layer: self._update(layer, states, products) for layer in group if layer and not (last and 0 in group)}
            if 0 in group:
                outputs = self._inputs(0, states, products)
            for layer, state in updated.items():
                states[layer] = state
        assert outputs is not None
        return outputs, tuple(states[1:])

    def _update(self, layer: int, states: list[Tensor | None], products: Sequence[UpDown]) -> Tensor:
        return self.hidden[layer - 1](self._inputs(layer, states, products))

    def _inputs(self, layer: int, states: list[Tensor | None], products: Sequence[UpDown]) -> Tensor:
        """The bias, and what comes from below and from above. A layer that nothing has reached yet counts as zero."""
        bias = total = self.biases[layer]
        if layer and (below := states[layer - 1]) is not None:
            total = products[layer - 1].up(below, total)
        if layer < len(self.hidden) and (above := states[layer + 1]) is not None:
            if layer or len(self.connections[0].below) == 1:  # type: ignore[arg-type]
                total = products[layer].down(above, total)
            else:  # images
                total = products[layer].down(above).flatten(1) + total
        if total is bias:
            batch = states[0].shape[0]  # type: ignore[union-attr]
            shape = self.connections[layer - 1].above if layer else total.shape
            total = total.expand(batch, *shape)  # type: ignore[misc]
        return total


def _connections(layers: Sequence[int] | Sequence[Connection], reconstruction: Reconstruction, tied: bool) -> list[Connection]:
    connections = [layer for layer in layers if isinstance(layer, Connection)]
    if connections and len(connections) == len(layers):
        for lower, upper in pairwise(connections):
            if lower.above != upper.below:
                raise ValueError(f"{lower} ends in {lower.above}, {upper} begins with {upper.below}: they must be the same")
        return connections
    widths = [layer for layer in layers if type(layer) is int and layer > 0]
    if len(widths) < 2 or len(widths) < len(layers):
        raise ValueError(
            f"layers is {list(layers)}: two or more positive widths are needed, such as (784, 1500, 1500), or connections"
        )
    outputs = reconstruction.outputs(widths[0])
    if tied and outputs != widths[0]:
        raise ValueError(
            f"{reconstruction} takes {outputs} outputs for {widths[0]} units, which tied weights do not give: tied=False"
        )
    return [Dense(below, above, tied=tied, outputs=None if i else outputs) for i, (below, above) in enumerate(pairwise(widths))]


def _groups(order: str | Sequence[Sequence[int]], depth: int) -> tuple[tuple[int, ...], ...]:
    odd, even = tuple(range(1, depth + 1, 2)), tuple(range(2, depth + 1, 2))
    known: dict[str, tuple[tuple[int, ...], ...]] = {
        "odd-first": (odd, (0, *even)),
        "even-first": (even, odd, (0,)) if even else (odd, (0,)),
        "up-down": (*((i,) for i in range(1, depth + 1)), *((i,) for i in range(depth - 1, -1, -1))),
    }
    if isinstance(order, str):
        if order not in known:
            raise ValueError(f"order is {order!r}: choose {', '.join(known)}, or give groups of layers")
        return known[order]
    groups = tuple(tuple(group) for group in order)
    layers = [layer for group in groups for layer in group]
    wrong = set(layers) ^ set(range(depth + 1)) or layers.count(0) != 1 or 0 not in groups[-1]
    if wrong or any(b - a == 1 for group in groups for a, b in pairwise(sorted(group))):
        raise ValueError(
            f"order is {order!r}: every layer 0 ... {depth} must be in it, no neighbours in one group, and x, which is 0, "
            "once, in the last group"
        )
    return groups
