"""The exact error of `Blend` beside that of its parents: nets of one to three layers, every joint sample summed.

Each Blend learns from calls on one batch, is then frozen, and its bias and variance, and those of leave-one-out and
straight-through with as many samples, are enumerated. Nothing in the table is sampled but what was learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

import dither
from dither import exact, methods
from dither.tables import Progress, Result, Row
from dither.testing import Problem, random_problem


@dataclass(frozen=True)
class Config:
    """Bias, variance and squared error of Blend and of its parents, enumerated on small nets."""

    depths: tuple[int, ...] = (1, 2, 3)
    nets: tuple[int, ...] = (0, 1, 2, 3)
    """numbers of the random nets of each depth"""
    calls: int = 3000
    """that Blend learns from"""
    decay: float = 0.999
    samples: int = 2
    seed: int = 0


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """A row per net: depth, net, and bias2, variance, mse of each estimator; lowest: which has the lowest mse."""
    torch.set_num_threads(1)
    rows = []
    for depth in config.depths:
        for number in config.nets:
            torch.manual_seed(config.seed)
            rows.append(_row(config, depth, number))
            progress(f"{depth} layers, net {number}: blend {rows[-1]['blend_mse']}, lowest {rows[-1]['lowest']}")
    return {"rows": rows}


def spellings(config: Config) -> dict[str, str]:
    """The first part of a column -> the estimator."""
    samples, decay = f"samples={config.samples}", f"decay={config.decay}"
    return {
        "leave_one_out": f"score-function:leave-one-out,{samples}",
        "straight_through": f"straight-through:{samples}",
        "blend": f"blend:{samples},{decay}",
        "shrunk": f"blend:{samples},{decay},shrink=true",
        "control_variate": f"blend:control-variate,{samples},{decay}",
    }


def _row(config: Config, depth: int, number: int) -> Row:
    without = ("twice", "hard-cost", "saturated", "local")
    problem = random_problem(number, max_bits=4.0, depth=depth, kinds=("binary", "signed"), without=without)
    row: Row = {"depth": depth, "net": number}
    for name, method in spellings(config).items():
        estimator = methods.build(method, problem.model)
        for _ in range(config.calls if isinstance(estimator, dither.Blend) else 0):
            estimator(problem.closure)
        bias2, variance = errors(estimator, problem)
        row |= {f"{name}_bias2": bias2, f"{name}_variance": variance, f"{name}_mse": float(f"{bias2 + variance:.4g}")}
    better = min(row["leave_one_out_mse"], row["straight_through_mse"])
    lowest = min(spellings(config), key=lambda name: row[f"{name}_mse"])
    return row | {"lowest": lowest, "against_best_parent": round(row["blend_mse"] / better, 4)}


def errors(estimator: dither.Estimator, problem: Problem) -> tuple[float, float]:
    """Squared norm of the bias, and total variance, both exact, over all parameters."""
    gradient = exact.gradient(problem.model, problem.closure)
    moments = exact.moments(estimator, problem.closure, max_outcomes=1 << 20)
    bias2 = sum(float((moments.mean[name] - gradient[name]).square().sum()) for name in gradient)
    return float(f"{bias2:.4g}"), float(f"{sum(float(v.sum()) for v in moments.variance.values()):.4g}")
