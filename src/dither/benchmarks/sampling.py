"""What it takes to sample a layer's worth of units, beside torch: bits from logits and a bias, and normal noise.

`milliseconds` are with the caches as a run before left them, as behind the product that made the logits; `cold` is the
first run after another implementation's. `times_torch`: how often the row's work is done in the time of the first torch
way, `times_best_torch` of the best one (medians of ratios within one turn). The last rows are limits of the machine,
each in the unit of its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from dither import kernels, noise
from dither.benchmarks import timing
from dither.benchmarks.timing import Step, Times
from dither.tables import Progress, Result, Row

Groups = dict[str, dict[str, Step]]  # work -> implementation -> step


@dataclass(frozen=True)
class Config:
    """Sampling from logits, and noise, in units per nanosecond, against torch.bernoulli, rand < p and randn."""

    batch_size: int = 1024
    units: int = 2048
    compiled: bool = False
    """Also measure torch.compile of rand < p and randn (takes a C++ compiler, and seconds)."""
    repeats: int = 25
    threads: int = 2
    seed: int = 0


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": [...]}: milliseconds, units per nanosecond, and speed as a multiple of torch's."""
    timing.prepare(config.threads, "highest", config.seed)
    a, b = (
        torch.randn(config.batch_size, config.units, dtype=torch.float32, device="cpu"),
        torch.randn(config.units, dtype=torch.float32, device="cpu"),
    )
    seed = torch.tensor(1, dtype=torch.int64, device="cpu")
    uniform, normal = (
        noise.Keyed(kind, seed, 0, torch.tensor(0, dtype=torch.int64, device="cpu"), tuple(a.shape), a.device)
        for kind in ("uniform", "normal")
    )
    groups = {"bits": bits(a, b, uniform)} | noises(a, uniform, normal) | nodes(a, uniform, normal) | passes(a)
    if config.compiled:
        groups["bits"]["rand < p, compiled"] = _compiled(lambda x: (torch.rand_like(x) < torch.sigmoid(x + b)).float(), a)
        groups["normal"]["randn, compiled"] = _compiled(torch.randn_like, a)
    rows = []
    for what, steps in groups.items():
        rows += _compared(what, a.numel(), *timing.in_blocks(steps, config.repeats))
        progress(f"{what}: {rows[-len(steps)]['units_ns']} units/ns")
    limits = timing.limits(config.threads)
    rows += [{"what": "limit of the machine", "implementation": name, "value": value} for name, value in limits.items()]
    return {"rows": rows}


def _compared(what: str, units: int, times: Times, cold: Times) -> list[Row]:
    """Rows, with how much faster than torch each implementation of dither is."""
    by_torch = [name for name in times if "dither" not in name]
    rows = timing.rows_of(times, {}, what=what)
    for row in rows:
        name = row["implementation"]
        speeds = [] if name in by_torch else [timing.ratio(times[other], times[name], 2) for other in by_torch]
        row |= {"cold": round(median(cold[name]), 3), "units_ns": round(units / 1e6 / row["milliseconds"], 2)}
        row |= {"times_torch": speeds[0] if speeds else None, "times_best_torch": min(speeds, default=None), "value": None}
    return rows


# --- the work ---------------------------------------------------------------------------------------------------------
def bits(a: Tensor, b: Tensor, uniform: noise.Keyed) -> dict[str, Step]:
    return {
        "dither, to float": lambda: kernels.bernoulli(a, uniform.key, bias=b),
        "dither, packed": lambda: kernels.bernoulli_bits(a, uniform.key, b),
        "torch.bernoulli(sigmoid(a + b))": lambda: torch.bernoulli(torch.sigmoid(a + b)),
        "rand < sigmoid(a + b)": lambda: (torch.rand_like(a) < torch.sigmoid(a + b)).float(),
    }


def noises(a: Tensor, uniform: noise.Keyed, normal: noise.Keyed) -> Groups:
    return {
        "uniform": {
            "dither": lambda: uniform.draw(a),
            "torch.rand_like": lambda: torch.rand_like(a),
        },
        "normal": {
            "dither": lambda: normal.draw(a),
            "torch.randn_like": lambda: torch.randn_like(a),
        },
    }


def nodes(a: Tensor, uniform: noise.Keyed, normal: noise.Keyed) -> Groups:
    return {
        "noisy rectifier": {
            "dither": lambda: kernels.noisy_relu(a, normal.key, 1.0),
            "relu(a + randn)": lambda: torch.relu(a + torch.randn_like(a)),
        },
        "categories of 16": {
            "dither": lambda: kernels.categorical(a.unflatten(1, (-1, 16)), uniform.key),
            "argmax(a + gumbel)": lambda: _gumbel_one_hot(a.unflatten(1, (-1, 16))),
        },
        "salt and pepper": {
            "dither": lambda: kernels.salt_and_pepper(a, uniform.key, 0.4),
            "two rand": lambda: torch.where(torch.rand_like(a) < 0.4, (torch.rand_like(a) < 0.5).float(), a),
        },
    }


def passes(a: Tensor) -> Groups:
    """What follows the samples: a gradient, a log-probability."""
    gradient, h = torch.randn_like(a), torch.empty_like(a).bernoulli_()
    packed = kernels.pack(h)
    return {
        "straight-through backward": {
            "dither": lambda: kernels.straight_through(gradient, a),
            "torch": lambda: _sigmoid_backward(gradient, a),
        },
        "log-probability of bits": {
            "dither": lambda: kernels.packed_log_prob(packed, a),
            "torch": lambda: F.logsigmoid((2 * h - 1) * a).sum(1),
        },
    }


def _gumbel_one_hot(a: Tensor) -> Tensor:
    index = (a - torch.log(-torch.log(torch.rand_like(a)))).argmax(-1)
    return F.one_hot(index, a.shape[-1]).to(a.dtype)


def _sigmoid_backward(gradient: Tensor, a: Tensor) -> Tensor:
    p = torch.sigmoid(a)
    return gradient * p * (1 - p)


def _compiled(f: Callable[[Tensor], Tensor], x: Tensor) -> Step:
    compiled = torch.compile(f)
    compiled(x)
    return lambda: compiled(x)
