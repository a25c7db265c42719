"""One categorical node, one quadratic cost: bias and variance of every estimator, without a training in between.

z ~ softmax(eta) is one-hot with K categories, the cost is z'Q'Qz + b'z, and Q, b, eta are drawn in this order by torch's normal
generator after `torch.manual_seed(seed)` (in float32, then used in float64). An estimator is scaled so that its expectation has
the norm of the true gradient; then its squared bias and its total variance (the sum over logits) are what is compared, as in
Hooper & Shekhovtsov 2026. Nothing is sampled but Gumbel noise: the rest are sums over the K outcomes, of the library's own
samplers, and equal the published table in all its digits.

The published Gumbel-softmax row looks like an average over some 5000 draws: so few leave a squared bias of about variance /
draws, and make the measured mean, hence the scale, off. With many draws the bias is smaller than published and the variance
greater; with 5000 both published numbers lie within two standard deviations (tests/experiments/test_single_node.py).

"score-optimal" is Eq. 7 with one baseline per logit, as published and as ScoreFunction(model, "optimal") keeps it;
"score-optimal-unit" has one for all logits of a node. Both know the cost of every outcome: an oracle's baselines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# (categories, seed) -> method -> (squared bias, variance), as published.
PUBLISHED: dict[tuple[int, int], dict[str, tuple[float, float]]] = {
    (4, 0): {
        "straight-through": (0.278, 0.772),
        "reinmax": (0, 13.8),
        "reinmax-1.3": (0.036, 4.38),
        "gumbel-softmax-0.1": (0.035, 65.6),
        "score": (0, 8.44),
        "score-optimal": (0, 0.599),
    },
    (8, 0): {
        "straight-through": (2.75, 17.9),
        "reinmax": (0, 77.5),
        "reinmax-1.3": (0.060, 80.2),
        "gumbel-softmax-0.1": (0.084, 500),
        "score": (0, 66.7),
        "score-optimal": (0, 1.61),
    },
    (12, 0): {
        "straight-through": (4.52, 40.3),
        "reinmax": (0, 170),
        "reinmax-1.3": (0.359, 184),
        "gumbel-softmax-0.1": (0.208, 1050),
        "score": (0, 165),
        "score-optimal": (0, 3.74),
    },
}
METHODS = (
    "straight-through",
    "reinmax",
    "reinmax-1.3",
    "mve",
    "gumbel-softmax-0.1",
    "gumbel-rao-0.1",
    "score",
    "score-optimal-unit",
    "score-optimal",
)


@dataclass(frozen=True)
class Config:
    """One categorical node with a quadratic cost: exact bias and variance of every estimator."""

    categories: tuple[int, ...] = (4, 8, 12)
    seeds: tuple[int, ...] = (0,)
    methods: tuple[str, ...] = METHODS
    draws: int = 1_000_000
    """of Gumbel noise, for the rows that need it"""


def run(config: Config, folder: Path, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """{"rows": a row per number of categories, seed and method}. bias2_error and variance_error are one standard error where
    noise was sampled, 0 where all is a sum."""
    return {
        "rows": [
            _row(config, categories, seed, method)
            for categories in config.categories
            for seed in config.seeds
            for method in config.methods
        ]
    }


def _row(config: Config, categories: int, seed: int, method: str) -> dict[str, Any]:
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
    if method.startswith("score"):
        return (*_moments(problem, *_score(problem, method)), 0.0, 0.0)
    if method.startswith(("gumbel-softmax-", "gumbel-rao-")):
        return _sampled(problem, method, draws)
    return (*_moments(problem, problem.slopes(_sampler(method), problem.each()), problem.p), 0.0, 0.0)


class Problem:
    """logits (K,), probabilities p, cost of each outcome (K,) and the true gradient."""

    def __init__(self, categories: int, seed: int) -> None:
        import torch

        torch.manual_seed(seed)
        q, b, logits = (torch.randn(shape).double() for shape in ((categories, categories), (categories,), (categories,)))
        self.quadratic, self.linear, self.logits = q.T @ q, b, logits
        self.p = torch.softmax(logits, 0)
        self.outcomes = torch.eye(categories, dtype=torch.float64)
        self.costs = self.cost(self.outcomes)
        self.gradient = self.p * (self.costs - self.p @ self.costs)

    def cost(self, z: Any) -> Any:
        """z (..., K) -> (...,)."""
        return ((z @ self.quadratic) * z).sum(-1) + z @ self.linear

    def each(self) -> Any:
        """Noise (K, K) by which each category wins in turn."""
        import dither

        return dither.Categorical().cells(self.logits.unsqueeze(0))[0].squeeze(1)

    def slopes(self, sampler: Callable, noise: Any) -> Any:
        """The estimate of the gradient at each row of noise, (rows, K)."""
        import torch

        logits = self.logits.expand(len(noise), -1).clone().requires_grad_()
        return torch.autograd.grad(self.cost(sampler(logits, noise)).sum(), logits)[0]


def _sampler(method: str) -> Callable:
    from functools import partial

    from dither import functional

    name, _, number = method.rpartition("-")
    match (name, number):
        case ("straight", "through"):
            return functional.categorical_straight_through
        case ("", "reinmax"):
            return functional.reinmax
        case ("", "mve"):
            return functional.mve
        case ("reinmax", temperature):
            return partial(functional.reinmax, temperature=float(temperature))
        case ("gumbel-softmax", temperature):
            return partial(functional.gumbel_softmax, temperature=float(temperature), hard=True)
    raise ValueError(f"there is no method {method!r}; choose among {', '.join(METHODS)} (any temperature at the end)")


def _score(problem: Problem, method: str) -> tuple[Any, Any]:
    """The score function with no baseline, or with the optimal one known: per logit, as the library's, or per node."""
    import torch

    from dither import functional

    logits = problem.logits.expand_as(problem.outcomes).clone().requires_grad_()
    log_p = functional.categorical_log_prob(logits, problem.outcomes)
    (score,) = torch.autograd.grad(log_p.sum(), logits)
    weight = score.square() if method == "score-optimal" else score.square().sum(1, keepdim=True)
    joint = problem.p.unsqueeze(1) * weight
    baseline = (joint * problem.costs.unsqueeze(1)).sum(0) / joint.sum(0)
    if method not in ("score", "score-optimal-unit", "score-optimal"):
        raise ValueError(f"there is no method {method!r}; choose among {', '.join(METHODS)}")
    return score * (problem.costs.unsqueeze(1) - (0 if method == "score" else baseline)), problem.p


def _moments(problem: Problem, estimates: Any, weight: Any) -> tuple[float, float]:
    mean = weight @ estimates
    scale = problem.gradient.norm() / mean.norm()
    bias2 = (scale * mean - problem.gradient).square().sum()
    return float(bias2), float(scale**2 * weight @ (estimates - mean).square().sum(1))


def _sampled(problem: Problem, method: str, draws: int) -> tuple[float, float, float, float]:
    """Averages over noise in ten parts, whose spread gives the standard errors. Gumbel-Rao, with 20 draws of its own for each,
    takes a tenth as many."""
    import torch

    def equal(count: int) -> Any:
        return torch.full((count,), 1 / count, dtype=torch.float64)

    parts = [_estimates(problem, method, draws // 10, part) for part in range(10)]
    each = torch.tensor([_moments(problem, part, equal(len(part))) for part in parts], dtype=torch.float64)
    whole = torch.cat(parts)
    bias2_error, variance_error = (each.std(0) / 10**0.5).tolist()
    return (*_moments(problem, whole, equal(len(whole))), bias2_error, variance_error)


def _estimates(problem: Problem, method: str, draws: int, part: int) -> Any:
    from functools import partial

    import torch

    from dither import functional, noise

    def uniform(site: int, *shape: int) -> Any:
        return noise.uniform(torch.tensor(0), site, torch.tensor(part), (*shape, len(problem.p)), problem.logits)

    if method.startswith("gumbel-softmax"):
        return problem.slopes(_sampler(method), uniform(0, draws))
    few = draws // 10
    extra = uniform(1, few, 20).movedim(1, 0)
    temperature = float(method.rpartition("-")[2])
    return problem.slopes(partial(functional.gumbel_rao, extra_noise=extra, temperature=temperature), uniform(0, few))
