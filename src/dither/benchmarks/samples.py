"""What K samples per step cost, against one: 784-500-B-10 or, with `bottleneck`, 784-500-B200-500-10; forward and backward.

The K samples are one vmap over the closure, and all that precedes the first stochastic node is computed once. The first
layer is nearly all of the first network's work, so ten samples are meant to cost less than four times one; in the second the
arithmetic that must be repeated is 2.6 times that of one sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Config:
    """The time of one step with K samples, against one sample."""

    samples: tuple[int, ...] = (1, 2, 5, 10, 20)
    baseline: str = "optimal"
    hidden: int = 500
    bottleneck: bool = False
    """784-500-B200-500-10, rectifiers on both sides of 200 hard units, in the place of 784-500-B-10."""
    estimator: str = "ScoreFunction"
    """ScoreFunction or ForwardOnly."""
    batch_size: int = 128
    repeats: int = 50
    threads: int = 1
    precision: str = "highest"
    seed: int = 0


def run(config: Config, folder: Path, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    """{"rows": a row per K and way of running them}: median milliseconds, and times those of one sample.

    All are measured in turn, so that a busy machine disturbs all alike.
    """
    import torch
    import torch.nn.functional as F

    import dither
    from dither.experiments import _timing
    from dither.models.mlp import StochasticMLP

    if 1 not in config.samples:
        raise ValueError(f"samples is {config.samples}: the comparison needs a 1 among them")
    _timing.prepare(config.threads, config.precision, config.seed)
    net = _bottleneck(config.hidden) if config.bottleneck else StochasticMLP((784, config.hidden, 10))
    build = {"ScoreFunction": dither.ScoreFunction, "ForwardOnly": dither.ForwardOnly}[config.estimator]
    x, y = torch.rand(config.batch_size, 784), torch.randint(10, (config.batch_size,))
    cases = {
        (samples, vectorize): build(net, config.baseline, samples, vectorize=vectorize)
        for samples in config.samples
        for vectorize in ((True, False) if samples > 1 else (True,))
    }
    times: dict[tuple[int, bool], list[float]] = {case: [] for case in cases}
    for repeat in range(config.repeats + 3):  # the first ones warm up
        for case, estimator in cases.items():
            net.zero_grad()
            began = time.perf_counter()
            estimator(lambda: F.cross_entropy(net(x), y, reduction="none")).backward()
            if repeat >= 3:
                times[case].append(1e3 * (time.perf_counter() - began))
        if repeat % 10 == 0:
            progress(f"{repeat}/{config.repeats + 3}")
    one = median(times[1, True])
    return {
        "rows": [
            {
                "samples": samples,
                "run_as": "one vmap" if vectorize else "a loop",
                "milliseconds": round(median(found), 2),
                "times_one_sample": round(median(found) / one, 2),
            }
            for (samples, vectorize), found in times.items()
        ]
    }


def _bottleneck(hidden: int) -> Any:
    from torch import nn

    import dither

    encoder = nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 200), dither.Bernoulli()
    return nn.Sequential(*encoder, nn.Linear(200, hidden), nn.ReLU(), nn.Linear(hidden, 10))
