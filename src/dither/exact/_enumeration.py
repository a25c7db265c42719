"""A noise source for oracles: it walks through every combination of the parts of the noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dither.exact._oracle import Oracle
from dither.nodes import Node

MAX_OUTCOMES = 1 << 16
_DEPENDS = (
    "the nodes called, or their shapes, change from one run of the closure to the next: such a closure cannot be enumerated; "
    "estimate by a long average, dither.audit(..., reference='average')"
)


class CannotEnumerate(ValueError):
    """The closure's outcomes cannot be summed over."""


class TooManyOutcomes(CannotEnumerate):
    """There are more joint outcomes than allowed. `outcomes`: how many."""

    def __init__(self, outcomes: int, draws: list[tuple[int, int]], limit: int) -> None:
        units = ", ".join(f"{count} with {parts} outcomes" for parts, count in draws)
        size = (
            str(outcomes) if outcomes < 10**7 else f"{outcomes:.1e}" if outcomes < 10**300 else f"2^{outcomes.bit_length() - 1}"
        )
        super().__init__(
            f"{size} joint outcomes (units drawn: {units}) exceed max_outcomes={limit}: enumerate a smaller net or batch, or "
            "estimate by a long average, dither.audit(..., reference='average')"
        )
        self.outcomes = outcomes


class Enumeration:
    """A noise source that walks through the parts of a partition: first it notes what is sampled (layout), then it replays
    chosen parts.

    Noise that an estimator asks for twice by one key is the same noise. Where the second request is for other logits, whose
    threshold may divide the interval of the first, that interval is divided once more (`_refined`).
    """

    def __init__(self, joint: bool, estimator: Any = None) -> None:
        self.joint = joint  # whether examples are enumerated jointly, or share the combinations
        self.estimator, self.oracle = estimator, getattr(estimator, "oracle", Oracle())
        self.layout: list[tuple[int, int]] = []
        self.replaying = False
        self.row: Tensor | None = None

    def start(self, row: Tensor | None) -> None:
        self.replaying, self.row, self.position, self.call = row is not None, row, 0, 0
        self._weights: list[Tensor] = []
        self._noise: dict[Any, Tensor] = {}
        self._between: dict[Any, tuple[Tensor, Tensor]] = {}
        if row is None:
            self.layout = []

    def __call__(self, node: Node, logits: Tensor, call: Any = None, stream: int = 0, sample: Any = 0) -> Tensor:
        """The noise of a node. call: an estimator's, for noise of its own key (site, stream, sample)."""
        if call is None:
            return self._pick(*node.partition(logits))
        key = (call.site, stream, int(sample))
        if key in self._noise and (key not in self._between or bool(self.oracle.repeats(self.estimator, call, stream))):
            return self._noise[key]
        thresholds = self.oracle.thresholds(self.estimator, node, logits.detach(), stream)
        if thresholds is not None:
            return self._refined(key, thresholds)
        parts = self.oracle.partition(self.estimator, node, logits.detach(), stream) or node.partition(logits)
        self._noise[key] = self._pick(*parts)
        return self._noise[key]

    @property
    def log_weight(self) -> Tensor:
        """The log-probability of all that was sampled. Added up only here: a node may run without a gradient, as the samples of
        a walk do, and must not take the other nodes' from them."""
        return sum(self._weights[1:], self._weights[0]) if self._weights else torch.zeros((), dtype=torch.float32, device="cpu")

    def _pick(self, noise: Tensor, log_weight: Tensor) -> Tensor:
        """The noise of one part per unit. noise, log_weight: parts in the leading dimension."""
        if self.joint:
            noise = noise.detach()  # an estimator differentiates at fixed noise; the model's expectation moves with the parts
        shape = log_weight.shape[1:] if self.joint else (1, *log_weight.shape[2:])
        count, parts = math.prod(shape), len(log_weight)
        if not self.replaying:
            self.layout.append((parts, count))
            return noise[0]
        if self.call >= len(self.layout) or self.layout[self.call] != (parts, count):
            raise CannotEnumerate(_DEPENDS)
        assert self.row is not None
        digits = self.row[self.position : self.position + count].view(shape).expand(log_weight.shape[1:])
        self.call, self.position = self.call + 1, self.position + count
        weight = log_weight.gather(0, digits.unsqueeze(0)).squeeze(0)
        self._weights.append(weight.unsqueeze(-1).flatten(1).sum(1))
        # What cannot happen weighs 0, whatever it costs; but 0 times the NaN of a forbidden category is NaN in the gradient.
        # So the closure runs there on what is likeliest instead.
        digits = torch.where(weight > -torch.inf, digits, log_weight.detach().argmax(0))
        spread = digits.view(*digits.shape, *[1] * (noise.dim() - 1 - digits.dim())).expand(noise.shape[1:])
        return noise.gather(0, spread.unsqueeze(0)).squeeze(0)

    def _refined(self, key: Any, thresholds: Tensor) -> Tensor:
        """A point of an interval between thresholds, inside the interval of this key's earlier request, if any."""
        points = self.oracle.quadrature
        low, high = self._between.get(key, (torch.zeros_like(thresholds[0]), torch.ones_like(thresholds[0])))
        edges = torch.cat((low.unsqueeze(0), thresholds.sort(0).values, high.unsqueeze(0))).clamp(low, high)
        width = high - low  # 0 for an outcome that cannot be, whose weight is 0 already
        weight = (edges[1:] - edges[:-1]) / torch.where(width > 0, width, torch.ones_like(width))
        middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
        parts = [torch.stack((edges[:-1], edges[1:], middle + x * half), -1) for x in points]
        interval = self._pick(torch.cat(parts), (weight / len(points)).log().repeat(len(points), *[1] * (weight.dim() - 1)))
        self._between[key] = (interval[..., 0], interval[..., 1])
        self._noise[key] = interval[..., 2]
        return self._noise[key]

    def finish(self) -> None:
        """Every unit of the layout must have been drawn again, else weights would not sum to one."""
        if self.replaying and self.call != len(self.layout):
            raise CannotEnumerate(_DEPENDS)

    def outcomes(self) -> int:
        return math.prod(parts**count for parts, count in self.layout)

    def rows(self, limit: int) -> Tensor:
        """Every combination of parts, (outcomes, units drawn) int64."""
        outcomes = self.outcomes()
        if outcomes > limit:
            raise TooManyOutcomes(outcomes, self.layout, limit)
        radices = [parts for parts, count in self.layout for _ in range(count)]
        index, columns = torch.arange(outcomes, dtype=torch.int64, device="cpu"), []
        for radix in radices:
            columns.append(index % radix)
            index = index // radix
        return torch.stack(columns, 1) if columns else torch.zeros(1, 0, dtype=torch.int64, device="cpu")


def over(run: Callable[..., Any], rows: Tensor, vectorize: bool, *batched: Any) -> Any:
    if vectorize:
        return torch.func.vmap(run, randomness="same")(rows, *batched)
    results = [run(row, *tree_map(lambda t, i=i: t[i], batched)) for i, row in enumerate(rows)]
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
