"""A binary node's samples as packed bits, and the gradient of the layer before it without a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dither import kernels
from dither.estimators.core.site import Site
from dither.functional import without_infinities


@dataclass
class Segment:
    """What leads to a node's logits: a Linear by itself, on the bits of an earlier site or on values; or anything (linear
    None), whose graph the logits carry. weights: those that it had in the run, which torch.func.functional_call puts in."""

    linear: nn.Linear | None = None
    weights: tuple[Tensor, Tensor | None] | None = None
    site: int = -1
    values: Tensor | None = None


class PackedSite(Site):
    """A site whose sample is packed, (K, batch, words). Where the logits were dropped they are computed when asked for."""

    def __init__(self, site: Site, segment: Segment, before: Site | None, dropped: bool) -> None:
        self.name, self.node, self.sample, self.index, self.count = site.name, site.node, site.sample, site.index, site.count
        self.sample_gradient, self.influence = site.sample_gradient, site.influence
        self.weights, self.before, self.values = segment.weights, before, segment.values
        self._shape = tuple(site.logits.shape)
        self._logits = None if dropped else site.logits

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def logits(self) -> Tensor:  # type: ignore[override]
        if self._logits is not None:
            return self._logits
        assert self.weights is not None
        with torch.no_grad():
            return logits_of(*self.weights, self.inputs, self.packed_inputs).view(self._shape)

    @property
    def inputs(self) -> Tensor:
        """What the Linear read: packed bits (K batch, words), or values (batch, units) of one run."""
        if self.before is None:
            assert self.values is not None
            return self.values
        return self.before.sample.flatten(0, 1)

    @property
    def packed_inputs(self) -> bool:
        return self.before is not None

    @property
    def score(self) -> Tensor:  # type: ignore[override]
        """h - sigmoid(a). Not kept: it is as large as the logits."""
        logits = self.logits.detach().flatten(0, 1).flatten(1)
        ones = torch.ones(1, 1, dtype=logits.dtype, device=logits.device)
        return kernels.packed_score(self.sample.flatten(0, 1), logits, ones).view(self._shape)

    @property
    def score_weight(self) -> Tensor:  # type: ignore[override]
        return self.score.square()


def logits_of(weight: Tensor, bias: Tensor | None, inputs: Tensor, packed: bool) -> Tensor:
    return kernels.packed_linear(inputs, weight, bias) if packed else nn.functional.linear(inputs, weight, bias)


def broadcast(site: PackedSite, advantage: Tensor) -> Tensor:
    """A scalar whose gradient is sum (h - sigmoid(a)) advantage d a / d theta. advantage: (K batch, units or 1)."""
    packed = site.sample.flatten(0, 1)
    if not kernels.plain(packed, advantage):
        return _by_graph(site, packed, advantage)
    if site.weights is None:
        return _Score.apply(site.logits, packed, advantage)  # type: ignore[return-value]
    detached = None if site._logits is None else site._logits.detach()
    return _Layer.apply(*site.weights, packed, advantage, site.inputs, site.packed_inputs, detached)  # type: ignore[return-value]


def _by_graph(site: PackedSite, packed: Tensor, advantage: Tensor) -> Tensor:
    """The same with an ordinary graph, for transforms (an oracle's vmap over outcomes)."""
    if site.weights is None:
        logits = site.logits.flatten(0, 1).flatten(1)
    else:
        logits = logits_of(*site.weights, site.inputs, site.packed_inputs)
    score = kernels.packed_score(packed, logits.detach(), advantage.to(logits.dtype))
    return (score.detach() * without_infinities(logits)).sum()


class _Score(torch.autograd.Function):
    """For logits with a graph: the gradient with respect to them is made when it is asked for."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, packed: Tensor, advantage: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(logits, packed, advantage)
        return logits.new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        logits, packed, advantage = ctx.saved_tensors
        flat = logits.detach().flatten(0, 1).flatten(1)
        return kernels.packed_score(packed, flat, (advantage * gradient).to(flat.dtype)).view(logits.shape), None, None


class _Layer(torch.autograd.Function):
    """For logits of one Linear: its own gradient from the bits, and no gradient for what is before it."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        weight: Tensor,
        bias: Tensor | None,
        packed: Tensor,
        advantage: Tensor,
        inputs: Tensor,
        on_bits: bool,
        logits: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(weight, bias, packed, advantage, inputs, logits)
        ctx.on_bits = on_bits
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        weight, bias, packed, advantage, inputs, logits = ctx.saved_tensors
        dropped = logits is None
        logits = logits_of(weight, bias, inputs, ctx.on_bits) if dropped else logits.flatten(0, 1)
        score = kernels.packed_score(packed, logits, (advantage * gradient).to(logits.dtype), in_place=dropped)
        del logits
        of_bias = score.sum(0) if bias is not None and ctx.needs_input_grad[1] else None
        if ctx.on_bits:
            of_weight = kernels.packed_outer(inputs, score, weight.shape[1])
        else:
            of_weight = score.T @ inputs
        return of_weight, of_bias, None, None, None, None, None
