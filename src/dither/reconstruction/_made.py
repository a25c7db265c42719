"""A masked autoregressive network: binary units that depend on each other in any way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither import functional, kernels, noise
from dither.kernels import bernoulli_terms, widen
from dither.reconstruction._autoregressive import extend_clamp
from dither.reconstruction._base import Reconstruction, check_fit

_FIRST = torch.tensor(0, dtype=torch.int64, device="cpu")  # the sample number of the noise of an order


class MADE(Reconstruction):
    """Binary units, each given the context and those before it in an order: a masked autoencoder.

    Formula     P(x | c) = prod_t P(x_o(t) | x_o(1..t-1), c), with the context c and the order o;
                z = 2 x - 1, so that 0 stands for units not seen; h_1 = relu((W_1 * M_1) z + C_1 c + b_1) and so on;
                logits = (V * M) h_n + (D * M_D) z + C c + b. By the masks M a logit sees the units before it alone.
    Shapes      outputs = c (batch, context), x (batch, units) in {0, 1} -> (batch,)
    hidden      widths of the hidden layers
    order       "natural"; "random": one permutation, from `seed`; "agnostic": `log_prob` takes a new random order at
                each call while training, so that one network learns all of them, and the natural one in `.eval()`
    Sampling    Given clamped units it is exact. "agnostic" puts them first: the orders are one distribution only as far
                as training has made them agree. A fixed order sums over the values of the free units before the last
                clamped one, of which there may be 16. A sample has no gradient. Each unit has a uniform of its own, in
                any order.
    Cost        `log_prob`: one pass through the network. A sample: `units` steps, one after the other, which together
                do the arithmetic of one pass. A hidden unit is computed once, when all the units that it sees are
                known.
    Source      Germain, Gregor, Murray and Larochelle 2015, "MADE: masked autoencoder for distribution estimation".

    >>> pixels = MADE(units=6, hidden=(32,), context=4)
    >>> outputs = torch.zeros(2, pixels.outputs(6))
    >>> pixels.sample(outputs).shape, pixels.log_prob(outputs, torch.ones(2, 6)).shape
    (torch.Size([2, 6]), torch.Size([2]))
    """

    factorised = False
    order: Tensor

    def __init__(
        self,
        units: int,
        hidden: Sequence[int] = (500,),
        *,
        context: int,
        order: Literal["natural", "random", "agnostic"] = "natural",
        seed: int = 0,
    ) -> None:
        super().__init__()
        widths = (units, *hidden)
        if not all(type(width) is int and width > 0 for width in (*widths, context)) or not hidden:
            raise ValueError(
                f"units={units!r}, hidden={tuple(hidden)!r}, context={context!r}: positive integers are needed, and at "
                "least one hidden layer"
            )
        if order not in ("natural", "random", "agnostic"):
            raise ValueError(f"order is {order!r}: choose 'natural', 'random' or 'agnostic'")
        self.units, self.hidden, self.context, self.agnostic = units, tuple(hidden), context, order == "agnostic"
        permutation = torch.arange(units, dtype=torch.int64)  # ambient: a buffer, built on the default device as layers are
        if order == "random":
            generator = torch.Generator("cpu").manual_seed(seed)
            drawn = torch.randperm(units, generator=generator, dtype=torch.int64, device="cpu")
            permutation = drawn.to(permutation.device)
        self.register_buffer("order", permutation)  # of the units: the first one to be sampled, the second ...
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.last, self.direct = nn.Linear(hidden[-1], units), nn.Linear(units, units, bias=False)
        self.injections = nn.ModuleList(nn.Linear(context, width, bias=False) for width in (*hidden, units))

    def extra_repr(self) -> str:
        return f"units={self.units}, hidden={self.hidden}, context={self.context}, agnostic={self.agnostic}"

    def outputs(self, units: int) -> int:
        if units != self.units:
            raise ValueError(f"this MADE is one of {self.units} units, not {units}: build it with units={units}")
        return self.context

    def check(self, x: Tensor) -> None:
        if not ((x == 0) | (x == 1)).all():
            raise ValueError("x has values besides 0 and 1, which MADE needs: sample binary ones, x.bernoulli(), or round them")

    def log_prob(self, outputs: Tensor, x: Tensor, order: Tensor | None = None) -> Tensor:
        """log P(x | outputs). order: (units,) int64, the unit that comes first, second ...; None: that of this MADE."""
        check_fit(self, outputs, x)
        if order is not None and not torch.equal(
            order.sort().values, torch.arange(self.units, device=order.device, dtype=torch.int64)
        ):
            raise ValueError(f"order is {order.tolist()}: a permutation of 0 ... {self.units - 1} is needed")
        if order is None:
            order = self._random_order() if self.agnostic and self.training else self.order
        return self._terms(outputs, x, order).sum(-1)

    def _terms(self, outputs: Tensor, x: Tensor, order: Tensor) -> Tensor:
        logits = self.logits(outputs, x, order)
        return bernoulli_terms(logits, x.to(logits.dtype))

    def logits(self, outputs: Tensor, x: Tensor, order: Tensor) -> Tensor:
        """The logit of every unit given those before it in an order (units,): (batch, units)."""
        *inputs, total = self._injected(outputs)
        z = h = 2 * x.to(self.last.weight.dtype) - 1
        before = position = order.argsort() + 1
        for layer, injected in zip(self._layers(), inputs, strict=True):
            # Degrees spread evenly over 1 ... units - 1: a hidden unit of degree t sees the first t units alone.
            degrees = (
                1
                + torch.arange(layer.out_features, dtype=torch.int64, device=order.device)
                * (self.units - 1)
                // layer.out_features
            )
            weight = layer.weight.masked_fill(degrees.unsqueeze(1) < before, 0)
            h, before = torch.relu(F.linear(h, weight, layer.bias) + injected), degrees
        last = self.last.weight.masked_fill(position.unsqueeze(1) <= before, 0)
        direct = self.direct.weight.masked_fill(position.unsqueeze(1) <= position, 0)
        return widen(F.linear(h, last, self.last.bias) + F.linear(z, direct) + total)

    @torch.no_grad()
    def mean(self, outputs: Tensor) -> Tensor:
        """P(x_o(t) = 1 | x_o(1..t-1), outputs) along one sample x: random, with E[x | outputs] as its mean.

        E[x | outputs] has no closed form. This has less variance than x itself, and no gradient.
        """
        return self.sample_with_mean(outputs)[1]

    @torch.no_grad()
    def sample_with_mean(
        self, outputs: Tensor, clamp: Tensor | None = None, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x = self.sample(outputs, clamp, values)
        return x, torch.sigmoid(self.logits(outputs, x, self.order))

    @torch.no_grad()
    def sample_unchecked(self, outputs: Tensor, clamp: Tensor | None, values: Tensor | None) -> Tensor:
        u = noise.fresh("uniform", (len(outputs), self.units), outputs.device).draw(outputs)
        order = self.order.unsqueeze(0)
        if clamp is not None and values is not None:
            values = values.masked_fill(~clamp, 0).to(widen(outputs).dtype)
            if kernels.plain(values):
                self.check(values)
            if self.agnostic:
                order = self.order[(~clamp[:, self.order]).long().argsort(stable=True)]
                if kernels.readable(order) and (order == order[:1]).all():
                    order = order[:1]
            else:
                clamp, values = extend_clamp(self._terms, outputs, u, self.order, clamp, values)
        return self._in_order(outputs, u, order, clamp, values)

    def _in_order(self, outputs: Tensor, u: Tensor, order: Tensor, clamp: Tensor | None, values: Tensor | None) -> Tensor:
        """Unit after unit in the order (batch or 1, units), which has the clamped ones first."""
        layers, (*inputs, logits) = self._layers(), [widen(injected) for injected in self._injected(outputs)]
        inputs = [injected + layer.bias for injected, layer in zip(inputs, layers, strict=True)]
        hidden, logits = [torch.zeros_like(a) for a in inputs], logits + self.last.bias
        first, direct = (widen(layer.weight).T.contiguous() for layer in (layers[0], self.direct))
        degrees = max(self.units - 1, 1)
        ends = [[-(-t * width // degrees) for t in range(self.units)] for width in self.hidden]  # hidden units of degree <= t
        samples = []
        for t in range(self.units):
            unit, seen = order[:, t : t + 1], ends[-1][t]
            of_hidden = (hidden[-1][:, :seen] * self.last.weight[unit[:, 0], :seen]).sum(1, keepdim=True)
            x = functional.bernoulli_sample(torch.take_along_dim(logits, unit, 1) + of_hidden, torch.take_along_dim(u, unit, 1))
            if clamp is not None and values is not None:
                x = torch.where(torch.take_along_dim(clamp, unit, 1), torch.take_along_dim(values, unit, 1).to(x.dtype), x)
            samples.append(x)
            if t + 1 < self.units:
                z, waiting = 2 * x - 1, ends[0][t]
                logits += z * direct[unit[:, 0]]
                inputs[0][:, waiting:] += z * first[unit[:, 0], waiting:]
                self._compute_hidden(t + 1, ends, inputs, hidden)
        return torch.take_along_dim(torch.cat(samples, 1), order.argsort(1), 1).to(widen(outputs).dtype)

    def _compute_hidden(self, degree: int, ends: list[list[int]], inputs: list[Tensor], hidden: list[Tensor]) -> None:
        """The hidden units of this degree, into `hidden`: the samples so far are all that they may see."""
        for i, layer in enumerate(self._layers()):
            start, end = ends[i][degree - 1], ends[i][degree]
            a = inputs[i][:, start:end]
            if i:
                below = ends[i - 1][degree]
                a = a + F.linear(hidden[i - 1][:, :below].to(layer.weight.dtype), layer.weight[start:end, :below])
            hidden[i][:, start:end] = torch.relu(a)

    def _random_order(self) -> Tensor:
        """By keyed noise, which is the same in all slices of a vmap; one for the batch."""
        one, like = torch.zeros(1, dtype=torch.int64, device="cpu"), torch.empty((), dtype=torch.float32, device="cpu")
        return kernels.uniform(noise.draw_seed(), 0, _FIRST, one, self.units, like)[0].argsort().to(self.order.device)

    def _layers(self) -> list[nn.Linear]:
        return cast("list[nn.Linear]", list(self.layers))

    def _injected(self, outputs: Tensor) -> list[Tensor]:
        """What the context adds to each hidden layer and to the logits."""
        return [injection(outputs.to(self.last.weight.dtype)) for injection in self.injections]
