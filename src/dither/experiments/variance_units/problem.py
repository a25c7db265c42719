"""A problem with any number of binary units whose true gradient is known: the ground of `variance-units`.

Units stand in groups of up to four, in one or several layers. Unit i of layer l has the logit b_li + sum_j W_lij x_j
over its group in the layer before, x = +-1, and the cost is

    L = 1/n sum_i softplus(alpha_i x_i + sum_j K_ij x_j + beta_i)        over the n units of the last layer,

j in i's group. The parameters are the b. Every unit has its alpha, K, beta, W and b from one and the same law,
whatever n is, and influences a fixed number of the 1/n-th parts of L: so n times the gradient of a unit has one law for
all n, and the noise-to-signal ratio, variance / |gradient|^2, at different n differs by the number of units alone (a
factor before L cancels: a sum instead of the mean gives the same ratios). Softplus makes L neither linear, which would
flatter first-order control variates, nor free of an offset, which would flatter the lack of a baseline.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dither

GROUP = 4
PAIR = 0.5  # strength of K, in all, beside alpha's 1
WEIGHT = 6.0  # of W: |gradient|^2 of the first layer falls by 7 from one layer to six (by 800 with 1.5)


class Units(nn.Module):
    """`layers` layers of `width` Bernoulli units.

    `logits`: (rows, layers, width), the b, once for each example of the batch. With `rows` equal rows each example has
    parameters of its own, so one call gives `rows` independent samples of the gradient.
    Raises ValueError for a width above 4 that is no multiple of it.
    """

    alpha: Tensor
    beta: Tensor
    pair: Tensor
    weight: Tensor

    def __init__(self, width: int, layers: int = 1, seed: int = 0) -> None:
        super().__init__()
        size = min(width, GROUP)
        if width < 1 or width % size or layers < 1:
            raise ValueError(f"width={width}, layers={layers}: 1, 2, 3 or a multiple of {GROUP} units, and a layer, are needed")
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")

        groups = width // size
        self.nodes = nn.ModuleList(dither.Bernoulli(values=(-1, 1)) for _ in range(layers))
        self.register_buffer("alpha", normal(groups, size))
        self.register_buffer("beta", 0.5 * normal(groups, size))
        others = 1 - torch.eye(size, dtype=torch.float64, device="cpu")
        self.register_buffer("pair", PAIR * normal(groups, size, size) * others / max(size - 1, 1) ** 0.5)
        self.register_buffer("weight", WEIGHT * normal(layers - 1, groups, size, size) / size**0.5)
        self.base = 0.5 * normal(1, layers, width)
        self.replicate(1)

    def replicate(self, rows: int) -> None:
        self.logits = nn.Parameter(self.base.repeat(rows, 1, 1))

    def costs(self) -> Tensor:
        """The part of each group, (rows, groups); the cost is their sum."""
        x: Tensor | None = None
        for layer, node in enumerate(self.nodes):
            logits = self.logits[:, layer]
            if x is not None:
                logits = logits + self._mixed(x, self.weight[layer - 1]).flatten(1)
            x = node(logits).unflatten(1, self.alpha.shape)
        assert x is not None
        return self._terms(x)

    def _terms(self, x: Tensor) -> Tensor:
        """x (..., groups, size) -> (..., groups)."""
        inputs = self.alpha * x + self._mixed(x, self.pair) + self.beta
        return F.softplus(inputs).sum(-1) / self.alpha.numel()

    def _mixed(self, x: Tensor, weight: Tensor) -> Tensor:
        """sum_j x_j weight_ji per group; products and a sum, through which a unit's influence is traced one by one."""
        return (x.unsqueeze(-1) * weight).sum(-2)

    def gradient(self) -> Tensor:
        """d E[L] / d b, (layers, width): every group's law is carried from layer to layer over its 2^size states."""
        logits = self.base[0].clone().requires_grad_()
        groups, size = self.alpha.shape
        states = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64, device="cpu")] * size).view(-1, 1, size)
        law: Tensor | None = None  # (states, groups)
        for layer in range(len(logits)):
            own = logits[layer].view(groups, size)
            if law is None:
                law = F.logsigmoid(states * own).sum(-1).exp()
                continue
            conditional = own + self._mixed(states.expand(-1, groups, -1), self.weight[layer - 1])
            moves = F.logsigmoid(states.unsqueeze(1) * conditional).sum(-1).exp()  # (to, from, groups)
            law = (moves * law).sum(1)
        assert law is not None
        expected = (law * self._terms(states.expand(-1, groups, -1))).sum()
        return torch.autograd.grad(expected, logits)[0]
