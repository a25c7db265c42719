"""The exact error of `Mixture` beside that of its parents: nets of one to three layers, every outcome summed.

Each Mixture learns from calls on one batch, is then frozen, and its bias and variance, and those of leave-one-out and
straight-through with the same number of samples, are enumerated. Nothing in the table is sampled but what was learned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Config:
    """Bias, variance and squared error of Mixture and of its parents, enumerated on small nets."""

    depths: tuple[int, ...] = (1, 2, 3)
    nets: tuple[int, ...] = (0, 1, 2, 3)
    """numbers of the random nets of each depth"""
    calls: int = 3000
    """that Mixture learns from"""
    decay: float = 0.999
    samples: int = 2
    seed: int = 0


def run(config: Config, folder: Path, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """{"rows": a row per net: depth, net, and bias2, variance, mse of each estimator; lowest: which has the least mse}."""
    import torch

    torch.set_num_threads(1)
    rows = []
    for depth in config.depths:
        for number in config.nets:
            torch.manual_seed(config.seed)
            rows.append(row(config, depth, number))
            progress(f"{depth} layers, net {number}: mixture {rows[-1]['mixture_mse']}, lowest {rows[-1]['lowest']}")
    return {"rows": rows}


def row(config: Config, depth: int, number: int) -> dict[str, Any]:
    import dither

    problem = dither.testing.random_problem(
        number, 4.0, depth=depth, kinds=("binary", "signed"), without=("twice", "hard-cost", "saturated", "local")
    )
    k = config.samples
    estimators = {
        "leave_one_out": dither.ScoreFunction(problem.model, "leave-one-out", samples=k),
        "straight_through": dither.StraightThrough(problem.model, samples=k),
        "mixture": dither.Blend(problem.model, samples=k, decay=config.decay),
        "shrunk": dither.Blend(problem.model, samples=k, decay=config.decay, shrink=True),
        "control_variate": dither.Blend(problem.model, "control-variate", samples=k, decay=config.decay),
    }
    found: dict[str, Any] = {"depth": depth, "net": number}
    for name, estimator in estimators.items():
        for _ in range(config.calls if isinstance(estimator, dither.Blend) else 0):
            estimator(problem.closure)
        bias2, variance = errors(estimator, problem)
        found |= {f"{name}_bias2": bias2, f"{name}_variance": variance, f"{name}_mse": float(f"{bias2 + variance:.4g}")}
    parents = min(found["leave_one_out_mse"], found["straight_through_mse"])
    best = min(estimators, key=lambda name: found[f"{name}_mse"])
    return found | {"lowest": best, "against_best_parent": round(found["mixture_mse"] / parents, 4)}


def errors(estimator: Any, problem: Any) -> tuple[float, float]:
    """Squared norm of the bias, and total variance, both exact, over all parameters."""
    from dither import exact

    gradient = exact.gradient(problem.model, problem.closure)
    moments = exact.moments(estimator, problem.closure, max_outcomes=1 << 20)
    bias2 = sum(float((moments.mean[name] - gradient[name]).square().sum()) for name in gradient)
    return float(f"{bias2:.4g}"), float(f"{sum(float(v.sum()) for v in moments.variance.values()):.4g}")
