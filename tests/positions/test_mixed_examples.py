"""Examples that depend on each other: every estimator is right by the batch's whole cost, or refuses, and says so."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither import Bernoulli, Categorical, DisARM, PerNode, ScoreFunction, estimators, exact
from every_configuration import ROWS

ROWS = {name: build for name, build in ROWS.items() if "-3" not in name and "PerNode" not in name}
ROWS["PerNode"] = partial(PerNode, estimators={"node": ScoreFunction})
MESSAGE = r"what is sampled for some examples changes the costs of others.*transpose\(0, 1\).*\.eval\(\)"


class Net(nn.Module):
    """A node between two linear maps, float64."""

    def __init__(self, batch: int = 2, units: int = 2, categories: int = 0, norm: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(batch)
        self.node = Categorical() if categories else Bernoulli()
        shape = (batch, units, categories) if categories else (batch, units)
        self.logits = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        self.norm = nn.BatchNorm1d(units, track_running_stats=False, dtype=torch.float64) if norm else nn.Identity()

        self.given: Tensor | None = None  # for the truth: a sample in place of the node's

    def forward(self) -> Tensor:
        h = self.node(self.logits) if self.given is None else self.given
        return self.norm(h @ torch.arange(1.0, 1 + h.shape[-1], dtype=h.dtype) if isinstance(self.node, Categorical) else h)


def steps(h: Tensor) -> Tensor:
    return torch.arange(1.0, 1 + h.shape[-1], dtype=h.dtype)


def time_first(net: Net) -> Tensor:
    h = net()
    return (h.T * steps(h)).sum(1).square()


def normalised(net: Net) -> Tensor:
    h = net()
    return ((h * steps(h)).sum(1) - 0.3).pow(3)


def contrastive(net: Net) -> Tensor:
    h = net() + 0.1
    return -F.log_softmax(h @ h.T, 1).diagonal()


def partner(net: Net) -> Tensor:
    """Pairs of views, half a batch apart."""
    h = net()
    return (h - h.roll(len(h) // 2, 0) * 0.5).mul(steps(h)).sum(1).square()


def truth(net: Net, cost: Callable[[Net], Tensor]) -> Tensor:
    """The gradient of the expected mean cost, summed over the joint outcomes of all examples (dither.exact sums each example's
    by itself)."""
    one = (
        torch.eye(net.logits.shape[-1], dtype=torch.float64) if isinstance(net.node, Categorical) else torch.tensor([0.0, 1.0])
    )
    total = torch.zeros((), dtype=torch.float64)
    units = net.logits.shape[:2]
    for places in itertools.product(range(len(one)), repeat=units.numel()):
        net.given = one[list(places)].reshape(net.logits.shape).double()
        total = total + net.node.log_prob(net.logits, net.given).sum().exp() * cost(net).mean()
    net.given = None
    return torch.autograd.grad(total, net.logits)[0]


def mean(estimator: estimators.Estimator, closure: Callable[[], Tensor]) -> Tensor:
    return exact.moments(estimator, closure, frozen=False, variance=False, max_outcomes=4096).mean["logits"]


WAYS: dict[str, tuple[Callable[[Net], Tensor], bool]] = {
    "time first": (time_first, False),
    "batch norm": (normalised, True),
    "contrastive": (contrastive, False),
    "partner": (partner, False),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("row", ROWS)
def test_every_estimator_is_right_or_refuses(row: str, way: str) -> None:
    cost, norm = WAYS[way]
    for categories in (0, 2)[: 1 + (way == "time first")]:
        net = Net(categories=categories, norm=norm)
        try:
            estimator = ROWS[row](net)
        except (TypeError, ValueError):  # a node that it does not take
            assert categories or "UnorderedSet" in row or "SumAndSample" in row or "CARMS" in row or "GumbelRao" in row
            continue
        torch.manual_seed(1)
        closure = lambda net=net: cost(net)  # noqa: E731
        if not estimator.credits_examples:
            assert not estimator.unbiased or row.startswith("Exact")
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                estimator(closure)
            continue
        if not estimator.credits_batches:
            with pytest.raises(RuntimeError, match=MESSAGE):
                estimator(closure)
            estimator.examples = "mixed"
            with pytest.raises(ValueError, match=r"examples is 'mixed', but .* compares costs example by example"):
                estimator(closure)
            continue
        with pytest.warns(UserWarning, match=MESSAGE):
            estimator(closure)
        if estimator.unbiased:
            for own in (estimator, declared(row, net))[way != "time first" :]:
                with suppress(exact.TooManyOutcomes):
                    torch.testing.assert_close(mean(own, closure), truth(net, cost), rtol=1e-7, atol=1e-8)


def declared(row: str, net: Net) -> estimators.Estimator:
    estimator = ROWS[row](net)
    estimator.examples = "mixed"
    return estimator


@pytest.mark.parametrize("way", WAYS)
def test_by_own_costs_it_would_be_wrong(way: str) -> None:
    """So that the cases above say something."""
    cost, norm = WAYS[way]
    net = Net(norm=norm)
    for build in (ScoreFunction, DisARM):
        estimator = build(net)
        estimator.examples = "separate"
        assert (mean(estimator, lambda: cost(net)) - truth(net, cost)).abs().max() > 1e-3
