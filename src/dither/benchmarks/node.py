"""What dither adds to the arithmetic of one small node: 100 x 200 units, K = 10 samples, the gradient of the logits alone.

The cost is sum_i (h_i - .499)^2 b_i for fixed b, averaged over units. By hand: one torch.rand for all samples, leave-one-out,
the score in closed form, no loop and no autograd. Peers, storchastic and Pyro (pip install "dither[bench]"), are in the
benchmark `overhead`, on a net.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Config:
    """One Bernoulli node, K samples, gradient only: dither beside a loop-free version by hand."""

    batch_sizes: tuple[int, ...] = (100, 1)
    units: int = 200
    samples: int = 10
    repeats: int = 200
    threads: int = 2
    seed: int = 0


def run(config: Config, folder: Path, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    """{"rows": a row per batch size and implementation}."""
    import torch

    import dither
    from dither.experiments import _timing

    _timing.prepare(config.threads, "highest", config.seed)
    rows = []
    for batch_size in config.batch_sizes:
        logits = torch.randn(batch_size, config.units, requires_grad=True)
        weight = torch.rand(config.units)
        node = dither.Bernoulli()
        estimator = dither.ScoreFunction(node, "leave-one-out", config.samples)

        def cost(h: Any, weight: Any = weight) -> Any:
            return ((h - 0.499).square() * weight).mean(-1)

        def by_hand(logits: Any = logits, cost: Callable[[Any], Any] = cost) -> Any:
            p = torch.sigmoid(logits.detach())
            h = (torch.rand(config.samples, *p.shape) < p).to(p.dtype)
            costs = cost(h)
            centred = (costs - costs.mean(0)) / (config.samples - 1)
            return (centred.unsqueeze(-1) * (h - p)).sum(0) / len(p)

        def by_dither(logits: Any = logits, cost: Callable[[Any], Any] = cost, node: Any = node, e: Any = estimator) -> Any:
            return torch.autograd.grad(e(lambda: cost(node(logits))), logits)

        times = _timing.in_turn({"by hand": by_hand, "dither": by_dither}, config.repeats, warm_up=10)
        rows += _timing.rows_of(times, {"times_hand": "by hand"}, batch_size=batch_size)
        progress(f"batch {batch_size}: {rows[-1]['times_hand']} times the hand-written one")
    return {"rows": rows}
