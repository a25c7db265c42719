"""One categorical node, one quadratic cost: bias and variance of every estimator, without a training in between.

z ~ softmax(eta) is one-hot with K categories, the cost is z'Q'Qz + b'z, and Q, b, eta are sampled in this order by torch.randn
after `torch.manual_seed(seed)` (in float32, then used in float64). An estimator is scaled so that its expectation has the norm
of the true gradient; then its squared bias and its total variance (the sum over logits) are what is compared, as in Hooper &
Shekhovtsov 2026. Nothing is sampled but Gumbel noise: the rest are sums over the K categories, of the library's own samplers,
and equal the published table in all its digits.

The published Gumbel-softmax row looks like an average over some 5000 draws: so few leave a squared bias of about variance /
draws, and make the measured mean, hence the scale, off. With many draws the bias is smaller than published and the variance
greater; with 5000 both published numbers lie within two standard deviations (tests/experiments/test_single_node.py).

score-function:optimal is Eq. 7 with one baseline per logit, as published and as ScoreFunction(model, baseline="optimal") has
it; optimal-baseline-per-node has one for all logits of a node. Both know the cost of every category: an oracle's baselines.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import dither
from dither import functional, methods, noise
from dither.tables import Progress, Result, Row

# (categories, seed) -> method -> (squared bias, variance), as published.
PUBLISHED: dict[tuple[int, int], dict[str, tuple[float, float]]] = {
    (4, 0): {
        "straight-through": (0.278, 0.772),
        "reinmax": (0, 13.8),
        "reinmax:temperature=1.3": (0.036, 4.38),
        "gumbel-softmax:temperature=0.1": (0.035, 65.6),
        "score-function": (0, 8.44),
        "score-function:optimal": (0, 0.599),
    },
    (8, 0): {
        "straight-through": (2.75, 17.9),
        "reinmax": (0, 77.5),
        "reinmax:temperature=1.3": (0.060, 80.2),
        "gumbel-softmax:temperature=0.1": (0.084, 500),
        "score-function": (0, 66.7),
        "score-function:optimal": (0, 1.61),
    },
    (12, 0): {
        "straight-through": (4.52, 40.3),
        "reinmax": (0, 170),
        "reinmax:temperature=1.3": (0.359, 184),
        "gumbel-softmax:temperature=0.1": (0.208, 1050),
        "score-function": (0, 165),
        "score-function:optimal": (0, 3.74),
    },
}
PER_NODE = "optimal-baseline-per-node"  # no estimator of the library
SCORES = ("score-function", PER_NODE, "score-function:optimal")
METHODS = (
    "straight-through",
    "reinmax",
    "reinmax:temperature=1.3",
    "mve",
    "gumbel-softmax:temperature=0.1",
    "gumbel-rao:temperature=0.1",
    *SCORES,
)
Sampler = Callable[..., Tensor]  # (logits, noise) -> sample
# estimator -> its sampler, and which of the estimator's arguments are the sampler's
SAMPLERS: dict[type[dither.Estimator], tuple[Sampler, tuple[str, ...]]] = {
    dither.StraightThrough: (functional.categorical_straight_through, ()),
    dither.ReinMax: (functional.reinmax, ("temperature",)),
    dither.MVE: (functional.mve, ("quadratic",)),
    dither.GumbelSoftmax: (partial(functional.gumbel_softmax, hard=True), ("temperature",)),
    dither.GumbelRao: (functional.gumbel_rao, ("temperature",)),
}
EXTRA = 20  # conditional samples of Gumbel-Rao, as many as the estimator takes


@dataclass(frozen=True)
class Config:
    """One categorical node with a quadratic cost: exact bias and variance of every estimator."""

    categories: tuple[int, ...] = (4, 8, 12)
    seeds: tuple[int, ...] = (0,)
    methods: tuple[str, ...] = METHODS
    draws: int = 1_000_000
    """of Gumbel noise, for the rows that need it"""


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """A row per number of categories, seed and method. bias2_error and variance_error are one standard error where noise was
    sampled, 0 where all is a sum."""
    return {
        "rows": [
            _row(config, categories, seed, method)
            for categories in config.categories
            for seed in config.seeds
            for method in config.methods
        ]
    }


def _row(config: Config, categories: int, seed: int, method: str) -> Row:
    bias2, variance, bias2_error, variance_error = measure(method, categories, seed, config.draws)
    published = PUBLISHED.get((categories, seed), {}).get(method, (None, None))
    return {
        "K": categories,
        "seed": seed,
        "method": method,
        "bias2": _rounded(bias2),
        "variance": _rounded(variance),
        "bias2_error": _rounded(bias2_error),
        "variance_error": _rounded(variance_error),
        "published_bias2": published[0],
        "published_variance": published[1],
    }


def _rounded(value: float) -> float:
    return 0.0 if abs(value) < 1e-12 else float(f"{value:.4g}")


def measure(method: str, categories: int, seed: int = 0, draws: int = 1_000_000) -> tuple[float, float, float, float]:
    """(squared bias, total variance, and a standard error of each) of a method, scaled to the norm of the true gradient."""
    problem = Problem(categories, seed)
    if method in SCORES:
        return (*moments(problem, score(problem, method), problem.p), 0.0, 0.0)
    kind, sampler = sampler_of(method)
    if kind in (dither.GumbelSoftmax, dither.GumbelRao):
        return sampled(problem, sampler, draws, EXTRA if kind is dither.GumbelRao else 0)
    return (*moments(problem, problem.gradients(sampler, problem.noise_of_each()), problem.p), 0.0, 0.0)


def sampler_of(method: str) -> tuple[type[dither.Estimator], Sampler]:
    kind, arguments = methods.parse(method)
    sampler, names = SAMPLERS.get(kind, (None, ()))
    if sampler is None or not arguments.keys() <= set(names):
        raise ValueError(f"there is no method {method!r}; choose among {', '.join(METHODS)} (with any temperature)")
    defaults = inspect.signature(kind).parameters
    return kind, partial(sampler, **{name: arguments.get(name, defaults[name].default) for name in names})


class Problem:
    """logits (K,), probabilities p, cost of each category (K,) and the true gradient."""

    def __init__(self, categories: int, seed: int) -> None:
        torch.manual_seed(seed)
        q, b, logits = (
            torch.randn(shape, dtype=torch.float32, device="cpu").double()
            for shape in ((categories, categories), (categories,), (categories,))
        )
        self.quadratic, self.linear, self.logits = q.T @ q, b, logits
        self.p = torch.softmax(logits, 0)
        self.categories = torch.eye(categories, dtype=torch.float64, device="cpu")
        self.costs = self.cost(self.categories)
        self.gradient = self.p * (self.costs - self.p @ self.costs)

    def cost(self, z: Tensor) -> Tensor:
        """z (..., K) -> (...,)."""
        return ((z @ self.quadratic) * z).sum(-1) + z @ self.linear

    def noise_of_each(self) -> Tensor:
        """Noise (K, K) by which each category wins in turn."""
        return dither.Categorical().partition(self.logits.unsqueeze(0))[0].squeeze(1)

    def gradients(self, sampler: Sampler, uniform: Tensor) -> Tensor:
        """The estimate of the gradient at each row of noise, (rows, K)."""
        logits = self.logits.expand(len(uniform), -1).clone().requires_grad_()
        return torch.autograd.grad(self.cost(sampler(logits, uniform)).sum(), logits)[0]


def score(problem: Problem, method: str) -> Tensor:
    """The estimate at each category, (K, K), by the score function with no baseline, or with the optimal one known: per
    logit, as the library's, or per node."""
    logits = problem.logits.expand_as(problem.categories).clone().requires_grad_()
    log_p = functional.categorical_log_prob(logits, problem.categories)
    (score,) = torch.autograd.grad(log_p.sum(), logits)
    weight = score.square().sum(1, keepdim=True) if method == PER_NODE else score.square()
    joint = problem.p.unsqueeze(1) * weight
    baseline = (joint * problem.costs.unsqueeze(1)).sum(0) / joint.sum(0)
    return score * (problem.costs.unsqueeze(1) - (0 if method == "score-function" else baseline))


def moments(problem: Problem, estimates: Tensor, weight: Tensor) -> tuple[float, float]:
    """(squared bias, total variance) of estimates (rows, K) of these weights (rows,)."""
    mean = weight @ estimates
    scale = problem.gradient.norm() / mean.norm()
    bias2 = (scale * mean - problem.gradient).square().sum()
    return float(bias2), float(scale**2 * weight @ (estimates - mean).square().sum(1))


def sampled(problem: Problem, sampler: Sampler, draws: int, extra: int) -> tuple[float, float, float, float]:
    """Averages over noise in ten parts, whose spread gives the standard errors. A sampler that takes extra noise, of which
    there is more for each, gets a tenth as many."""
    parts = [estimates(problem, sampler, draws // 10, part, extra) for part in range(10)]
    each = torch.tensor(
        [moments(problem, part, uniform_weight(len(part))) for part in parts], dtype=torch.float64, device="cpu"
    )
    whole = torch.cat(parts)
    bias2_error, variance_error = (each.std(0) / 10**0.5).tolist()
    return (*moments(problem, whole, uniform_weight(len(whole))), bias2_error, variance_error)


def uniform_weight(count: int) -> Tensor:
    return torch.full((count,), 1 / count, dtype=torch.float64, device="cpu")


def estimates(problem: Problem, sampler: Sampler, draws: int, part: int, extra: int = 0) -> Tensor:
    """The gradient at `draws` random rows of noise, (draws, K)."""

    def uniform(site: int, *shape: int) -> Tensor:
        return noise.uniform(
            torch.tensor(0, dtype=torch.int64, device="cpu"),
            site,
            torch.tensor(part, dtype=torch.int64, device="cpu"),
            (*shape, len(problem.p)),
            problem.logits,
        )

    if not extra:
        return problem.gradients(sampler, uniform(0, draws))
    few = draws // 10
    conditional = partial(sampler, extra_noise=uniform(1, few, extra).movedim(1, 0))
    return problem.gradients(conditional, uniform(0, few))
