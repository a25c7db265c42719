from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from dither.estimators.core.call import Call, Layout
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.shapes import batch_mean
from dither.estimators.core.site import Site
from dither.functional import attach, widen
from dither.nodes import Node


class PathSampleAnalytic(Estimator):
    """Path sample-analytic (PSA): what flipping each unit would do to the next layer's probabilities, summed analytically.

    >>> import torch, dither
    >>> node, logits = dither.Bernoulli(), torch.tensor([[0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    >>> estimator = dither.PathSampleAnalytic(node)
    >>> torch.autograd.grad(estimator(lambda: node(logits).sum(1).round()), logits)[0]  # s (1 - s), no variance
    tensor([[0.2500, 0.1966]], dtype=torch.float64)
    >>> net = torch.nn.Sequential(dither.Bernoulli(), torch.nn.Linear(2, 3), dither.Bernoulli(), torch.nn.Linear(3, 1))
    >>> estimator = dither.PathSampleAnalytic(net)
    >>> _ = estimator(lambda: net(torch.zeros(1, 2)).squeeze(1)); estimator.evaluations  # 1 + 3 units of the last layer
    4

    Estimates   d E[L] / d theta of a chain of binary layers; unbiased for one layer, a small bias and variance for more.
    Formula     d L / d a_i := -s_i sigmoid'(a_i) g_i, s = 2 h - 1, where g_i is what a flip of unit i is worth:     (1)
                last layer  g_i = L(h with i flipped) - L(h), by evaluations of the closure                          (2)
                before it   g_i = sum_j D_ij g_j with D_ij = -s_j (sigmoid(a_j after the flip of i) - sigmoid(a_j))  (3)
                Made linear in the flip, D_ij and L give straight-through with sigmoid' (`StraightThrough(model)`).
    Requires    1 + (units of the last layer) evaluations of the closure, of which only what follows that layer differs; a table
                (batch, units, next units) per layer. Any cost. The model is an nn.Sequential of Linear, Bernoulli, Linear,
                Bernoulli, ..., or a models.mlp.StochasticMLP, and the closure runs it once.
    Raises      TypeError for another model: between two Bernoulli layers there must be one Linear and nothing else.
    Reference   Shekhovtsov, Yanush, Flach 2020, "Path sample-analytic gradient estimators for stochastic binary networks".
    """

    unbiased = False
    reference = "Shekhovtsov, Yanush, Flach 2020"
    requires = ("binary",)
    runs_depend_on_layout = True
    runs_differ_by_kind = True
    composable = False
    credits_batches = False

    def __init__(self, model: nn.Module, *, vectorize: Vectorize = "auto") -> None:
        super().__init__(model, vectorize=vectorize)
        if continuous := [name for name, node in self.nodes.items() if not node.discrete]:
            raise TypeError(f"node '{continuous[0]}' is not binary: PathSampleAnalytic takes nets of Bernoulli layers only")
        self._linears = _between(self.model)

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {}  # no model of the conformance suite is a chain: tests/estimators/test_path_sample_analytic.py

    def runs(self, layout: Layout) -> int:
        return 1 + math.prod(layout[-1][1])

    def starts(self, layout: Layout) -> list[int]:
        return [1] * len(layout) + [self.runs(layout)]

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        sample = call.node.sample(call.logits, call.noise(0))
        if call.index == len(call.layout) - 1:  # the runs of (2)
            units = torch.arange(sample.shape[1:].numel(), device=sample.device, dtype=torch.int64).view(sample.shape[1:])
            sample = torch.where(units == call.run - 1, 1 - sample, sample)
        return call.output(sample), sample

    def own_runs(self, values: Tensor) -> Tensor:
        return values[:1]

    def assemble(self, costs: Tensor, sites: list[Site]) -> Tensor:
        self._require_chain(sites)
        totals, loss = widen(costs.detach()).sum(-1), batch_mean(self.value(costs))
        worth = (totals[1:] - totals[:1]).T  # (2), of flips of the last layer, (batch, units)
        for i in reversed(range(len(sites))):
            if i + 1 < len(sites):
                worth = _through(self._linears[i], sites[i], sites[i + 1], worth)
            loss = attach(loss, _of_layer(sites[i], worth))
        return loss

    def _require_chain(self, sites: list[Site]) -> None:
        if len(sites) != len(self._linears) + 1 or any(site.logits.dim() != 3 for site in sites):
            raise ValueError(
                f"the closure called {len(sites)} layers with logits of shapes "
                f"{[tuple(site.logits.shape[1:]) for site in sites]}: PathSampleAnalytic follows one pass through the "
                f"model's {len(self._linears) + 1} layers, with logits (batch, units)"
            )


def _of_layer(site: Site, worth: Tensor) -> Tensor:
    """(1), -s_i sigmoid'(a_i) g_i along the logits."""
    logits, sample = site.logits[0], site.sample[0]
    p = torch.sigmoid(widen(logits.detach()))
    return site.along_logits(-(2 * sample - 1) * p * (1 - p) * worth, logits)


def _through(linear: nn.Linear, before: Site, after: Site, worth: Tensor) -> Tensor:
    """(3): the worth of flips of the layer before, (batch, units), from that of the layer after it."""
    sample, logits = before.sample[0], before.logits[0].detach()
    step = before.node.output(logits, 1 - sample) - before.node.output(logits, sample)
    a = widen(after.logits[0].detach())
    # (batch, units before, units after)
    flipped = torch.sigmoid(a.unsqueeze(1) + step.unsqueeze(2) * linear.weight.detach().T)
    change = flipped - torch.sigmoid(a).unsqueeze(1)
    return (change @ (-(2 * after.sample[0] - 1) * worth).unsqueeze(2)).squeeze(2)


def _between(model: nn.Module) -> list[nn.Linear]:
    """The linear layers between the binary ones, in their order."""
    chain = _chain(model)
    places = [i for i, module in enumerate(chain) if isinstance(module, Node) and module.binary]
    linears = []
    for one, other in pairwise(places):
        inner = [m for m in chain[one + 1 : other] if not isinstance(m, nn.Identity)]
        if len(inner) != 1 or not isinstance(inner[0], nn.Linear):
            raise TypeError(
                f"between two Bernoulli layers there is {[type(m).__name__ for m in inner]}: PathSampleAnalytic needs one "
                "nn.Linear and nothing else there; use ScoreFunction or StraightThrough"
            )
        linears.append(inner[0])
    return linears


def _chain(model: nn.Module) -> list[nn.Module]:
    if isinstance(model, nn.Sequential):
        return [inner for module in model for inner in _chain(module)]
    linears, nodes = getattr(model, "linears", None), getattr(model, "nodes", None)
    if isinstance(linears, nn.ModuleList) and isinstance(nodes, nn.ModuleList) and len(linears) == len(nodes) + 1:
        return [module for pair in zip(linears, nodes, strict=False) for module in pair] + [linears[-1]]
    if list(model.children()):
        raise TypeError(
            f"the model holds a {type(model).__name__}: PathSampleAnalytic follows chains only, an nn.Sequential of Linear and "
            "Bernoulli layers or a dither.models.mlp.StochasticMLP; use ScoreFunction or StraightThrough"
        )
    return [model]
