"""What K samples per step cost, against one: forward and backward of 784-500-B-10.

With `bottleneck` the net is 784-500-B200-500-10. The K samples are one vmap over the closure, and all that precedes the
first stochastic node is computed once; or a loop; or rows of one plain run, repeated from the node's logits on. The first
layer is nearly all of the first network's work, so ten samples are meant to cost less than four times one; in the second
the arithmetic that must be repeated is 2.6 times that of one sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

import dither
from dither import methods
from dither.benchmarks import timing
from dither.benchmarks.timing import Step
from dither.models.mlp import StochasticMLP
from dither.tables import Progress, Result, Row

WAYS: dict[str, dict[str, bool]] = {"one vmap": {}, "a loop": {"vectorize": False}, "repeated rows": {"repeated": True}}


@dataclass(frozen=True)
class Config:
    """The time of one step with K samples, against one sample."""

    samples: tuple[int, ...] = (1, 2, 5, 10, 20)
    method: str = "score-function:optimal"
    """An estimator that takes samples=, such as score-function:optimal or forward-only:optimal."""
    hidden: int = 500
    bottleneck: bool = False
    """784-500-B200-500-10, rectifiers on both sides of 200 hard units, in the place of 784-500-B-10."""
    batch_size: int = 128
    repeats: int = 50
    threads: int = 1
    precision: str = "highest"
    seed: int = 0


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": a row per K and way of running them}: median milliseconds, and times those of one sample.

    All are measured in turn, so that a busy machine disturbs all alike.
    """
    if 1 not in config.samples:
        raise ValueError(f"samples is {config.samples}: the comparison needs a 1 among them")
    timing.prepare(config.threads, config.precision, config.seed)
    net = bottleneck(config.hidden) if config.bottleneck else StochasticMLP((784, config.hidden, 10))
    times = timing.in_turn(steps(config, net), config.repeats, before=net.zero_grad)
    one = median(times[1, "one vmap"])
    rows = [_row(samples, run_as, own, one) for (samples, run_as), own in times.items()]
    progress(f"{rows[-1]['samples']} samples, {rows[-1]['run_as']}: {rows[-1]['times_one_sample']} times one sample")
    return {"rows": rows}


def _row(samples: int, run_as: str, times: list[float], one: float) -> Row:
    row: Row = {"samples": samples, "run_as": run_as}
    row |= {"milliseconds": round(median(times), 3), "min": round(min(times), 3)}
    return row | {"times_one_sample": round(median(times) / one, 2)}


def steps(config: Config, net: StochasticMLP | nn.Sequential) -> dict[tuple[int, str], Step]:
    """A step for each number of samples, in each way of running them."""
    x, y = (
        torch.rand(config.batch_size, 784, dtype=torch.float32, device="cpu"),
        torch.randint(10, (config.batch_size,), dtype=torch.int64, device="cpu"),
    )
    kind, arguments = methods.parse(config.method)
    layers = list(net) if isinstance(net, nn.Sequential) else [net.linears[0], net.nodes[0], net.linears[1]]
    first = next(i for i, layer in enumerate(layers) if isinstance(layer, dither.Node))
    before, behind = nn.Sequential(*layers[:first]), nn.Sequential(*layers[first:])

    def step(samples: int, run_as: str) -> Step:
        estimator = kind(net, **arguments | {"samples": samples} | WAYS[run_as])  # type: ignore[arg-type]
        if run_as == "repeated rows":  # from the first node's logits on, as a user would who counts the work
            targets = dither.repeat_rows(y, samples)
            return lambda: estimator(
                lambda: F.cross_entropy(behind(dither.repeat_rows(before(x), samples)), targets, reduction="none")
            ).backward()
        return lambda: estimator(lambda: F.cross_entropy(net(x), y, reduction="none")).backward()

    ways = [way for way, given in WAYS.items() if given.keys() <= signature(kind).parameters.keys()]
    return {(k, way): step(k, way) for k in config.samples for way in (ways if k > 1 else ways[:1])}


def bottleneck(hidden: int) -> nn.Sequential:
    encoder = nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 200), dither.Bernoulli()
    return nn.Sequential(*encoder, nn.Linear(200, hidden), nn.ReLU(), nn.Linear(hidden, 10))
