"""Is the audit's advice good? Random nets with known gradients, costs of four types: what a short audit recommends, judged by a
long one.

The short audit is what a user runs. The long one has other noise and its own times, and the exact gradient as reference: its
`equal_time_worth` says how far each estimator descends at equal time. The advice is as good as the descent of the recommended
estimator beside that of the best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dither
from dither import methods
from dither.auditing import Recommendation, has_gradient, recommend
from dither.tables import Progress, Result, Row

BINARY = ("straight-through", "reinmax", "score-function:leave-one-out,samples=4", "score-function:optimal", "disarm", "muprop",
          "double-cv:samples=4", "blend:control-variate")  # fmt: skip
CATEGORICAL = tuple(name for name in BINARY if name != "disarm")
BATCH, CLASSES = 4, 3
BY = ("time", "evaluations")


@dataclass(frozen=True)
class Config:
    """Short audits of random nets, judged by long ones."""

    nets: int = 40
    draws: int = 100
    """gradients per estimator of the audit that recommends"""
    judge_draws: int = 600
    warmup: int = 50
    seed: int = 0


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """Two rows per net, by measured time and by evaluations: the recommended estimator's descent and error beside the best's.
    Then one row per cost and measure that counts them, with "all" as its net."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for number in range(config.nets):
        rows += _rows(config, number)
        progress(f"net {number}, {rows[-1]['cost']}: " + ", ".join(f"{r['descent_share']:.0%} by {r['by']}" for r in rows[-2:]))
    return {"rows": rows + [_count(rows, cost, by) for by in BY for cost in ("all", *COSTS)]}


# --- nets and costs -----------------------------------------------------------------------------------------------------
def _net(number: int) -> tuple[nn.Module, bool]:
    """One or two stochastic layers of 3 to 9 binary units, or of 2 to 4 categorical ones; and whether they are binary."""
    generator = torch.Generator().manual_seed(number)
    binary, depth = number % 5 != 4, 1 + number % 2
    cpu: Any = {"generator": generator, "device": "cpu"}
    low, high = (3, 10) if binary else (2, 5)
    units = [int(torch.randint(low, high, (), dtype=torch.int64, **cpu)) for _ in range(depth)]
    units = [min(u, 5) if depth > 1 else u for u in units]
    layers: list[nn.Module] = []
    width = 6
    for u in units:
        layers += [nn.Linear(width, u), dither.Bernoulli()] if binary else [
            nn.Linear(width, u * CLASSES), nn.Unflatten(1, (u, CLASSES)), dither.Categorical(), nn.Flatten()]  # fmt: skip
        width = u if binary else u * CLASSES
    net = nn.Sequential(*layers, nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(
                torch.randn(p.shape, dtype=torch.float32, **cpu) * (1.5 / max(p.shape[-1], 1) ** 0.5 if p.dim() > 1 else 0.5)
            )
    return net, binary


def _smooth(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def _piecewise_constant(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(-1) != y).to(logits.dtype)


def _saturated(logits: Tensor, y: Tensor) -> Tensor:
    return 1 - torch.sigmoid(12 * (logits.gather(-1, y.unsqueeze(-1)).squeeze(-1) - logits.mean(-1)))


def _heavy_tailed(logits: Tensor, y: Tensor) -> Tensor:
    return (2 * _smooth(logits, y)).exp()


COSTS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "smooth": _smooth,
    "piecewise constant": _piecewise_constant,
    "saturated": _saturated,
    "heavy-tailed": _heavy_tailed,
}


# --- the judgement --------------------------------------------------------------------------------------------------------
def _rows(config: Config, number: int) -> list[Row]:
    net, binary = _net(number)
    name = list(COSTS)[number // 2 % len(COSTS)]
    generator = torch.Generator().manual_seed(1000 + number)
    cpu: Any = {"generator": generator, "device": "cpu"}
    x = torch.randn(BATCH, 6, dtype=torch.float32, **cpu)
    y = torch.randint(CLASSES, (BATCH,), dtype=torch.int64, **cpu)

    def audit(draws: int, seed: int) -> list[Row]:
        estimators = {method: methods.build(method, net) for method in (BINARY if binary else CATEGORICAL)}
        report = dither.audit(
            net, lambda: COSTS[name](net(x), y), estimators, draws=draws, reference="exact", warmup=config.warmup, seed=seed
        )
        return list(report.overall().values())

    short, long = audit(config.draws, config.seed), audit(config.judge_draws, config.seed + 1)
    about = {"net": number, "cost": name, "nodes": "binary" if binary else "categorical"}
    return [about | {"by": by} | _judged(recommend(_timed(short, by)), _timed(long, by)) for by in BY]


def _timed(rows: list[Row], by: str) -> list[Row]:
    return [{**row, "milliseconds": float(row["evaluations"])} for row in rows] if by == "evaluations" else rows


def _judged(advice: Recommendation, long: list[Row]) -> Row:
    """descent_share: the recommended estimator's part of the best one's descent. error_ratio: its error over the least of
    those that have a gradient. lowest_share: of the worst estimator, for comparison."""
    assert advice.estimator is not None
    ranking = {str(entry["estimator"]): entry for entry in recommend(long).ranking}
    best, chosen = next(iter(ranking)), ranking[advice.estimator]
    moving = {row["estimator"] for row in long if has_gradient(row)}
    return {
        "recommended": advice.estimator,
        "best": best,
        "descent_share": float(f"{chosen['worth'] / ranking[best]['worth']:.4g}"),
        "error_ratio": float(f"{chosen['error'] / min(ranking[name]['error'] for name in moving):.4g}"),
        "has_gradient": advice.estimator in moving,
        "lowest_share": float(f"{min(entry['worth'] for entry in ranking.values()) / ranking[best]['worth']:.4g}"),
    }


def _count(rows: list[Row], cost: str, by: str) -> Row:
    rows = [row for row in rows if row["by"] == by and cost in ("all", row["cost"])]
    return {
        "net": "all",
        "cost": cost,
        "by": by,
        "nets": len(rows),
        "descent_within_1.5": sum(row["descent_share"] >= 1 / 1.5 for row in rows),
        "error_within_1.5": sum(row["error_ratio"] <= 1.5 for row in rows),
        "without_gradient": sum(not row["has_gradient"] for row in rows),
        "estimators": len({row["best"] for row in rows}),
    }
