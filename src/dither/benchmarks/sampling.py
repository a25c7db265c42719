"""What it takes to sample a layer's worth of units, beside torch: bits from logits and a bias, and normal noise.

`milliseconds` are with the caches as a run before left them, as behind the product that made the logits; `cold` is the first
run after another implementation's. `times_torch`: how often the row's work is done in the time of the first torch way,
`times_best_torch` of the best one (medians of ratios within one turn). The last rows are limits of the machine, each in the
unit of its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any


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


def run(config: Config, folder: Path, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    """{"rows": [...]}: milliseconds, units per nanosecond, and speed as a multiple of torch's."""
    import torch

    from dither import kernels, noise
    from dither.experiments import _timing

    _timing.prepare(config.threads, "highest", config.seed)
    shape = (config.batch_size, config.units)
    a, b, seed = torch.randn(shape), torch.randn(config.units), torch.tensor(1)
    keyed = {kind: noise.Keyed(kind, seed, 0, torch.tensor(0), shape, a.device) for kind in ("uniform", "normal")}
    gradient, h = torch.randn(shape), torch.empty(shape).bernoulli_()
    packed = kernels.pack(h)
    groups: dict[str, dict[str, Callable[[], Any]]] = {
        "bits": {
            "dither, to float": lambda: kernels.bernoulli(a, keyed["uniform"].key, bias=b),
            "dither, packed": lambda: kernels.bernoulli_bits(a, keyed["uniform"].key, b),
            "torch.bernoulli(sigmoid(a + b))": lambda: torch.bernoulli(torch.sigmoid(a + b)),
            "rand < sigmoid(a + b)": lambda: (torch.rand_like(a) < torch.sigmoid(a + b)).float(),
        },
        "uniform": {
            "dither": lambda: keyed["uniform"].draw(a),
            "torch.rand_like": lambda: torch.rand_like(a),
        },
        "normal": {
            "dither": lambda: keyed["normal"].draw(a),
            "torch.randn_like": lambda: torch.randn_like(a),
        },
        "noisy rectifier": {
            "dither": lambda: kernels.noisy_relu(a, keyed["normal"].key, 1.0),
            "relu(a + randn)": lambda: torch.relu(a + torch.randn_like(a)),
        },
        "categories of 16": {
            "dither": lambda: kernels.categorical(a.unflatten(1, (-1, 16)), keyed["uniform"].key),
            "argmax(a + gumbel)": lambda: _gumbel_one_hot(a.unflatten(1, (-1, 16))),
        },
        "salt and pepper": {
            "dither": lambda: kernels.salt_and_pepper(a, keyed["uniform"].key, 0.4),
            "two rand": lambda: torch.where(torch.rand_like(a) < 0.4, (torch.rand_like(a) < 0.5).float(), a),
        },
        "straight-through backward": {
            "dither": lambda: kernels.straight_through(gradient, a),
            "torch": lambda: _sigmoid_backward(gradient, a),
        },
        "log-probability of bits": {
            "dither": lambda: kernels.packed_log_prob(packed, a),
            "torch": lambda: torch.nn.functional.logsigmoid((2 * h - 1) * a).sum(1),
        },
    }
    if config.compiled:
        groups["bits"]["rand < p, compiled"] = _compiled(lambda x: (torch.rand_like(x) < torch.sigmoid(x + b)).float(), a)
        groups["normal"]["randn, compiled"] = _compiled(torch.randn_like, a)
    rows = []
    for what, steps in groups.items():
        times, cold = _timing.in_blocks(steps, config.repeats)
        for row in _timing.rows_of(times, {}, what=what):
            row["cold"] = round(median(cold[row["implementation"]]), 3)
            row["units_ns"] = round(a.numel() / 1e6 / row["milliseconds"], 2)
            row |= {
                f"times {other}": _timing.ratio(times[other], times[row["implementation"]], 2)
                for other in steps
                if "dither" not in other
            }
            rows.append({k: v for k, v in row.items() if not k.startswith("times") or "dither" in row["implementation"]})
        progress(f"{what}: {rows[-len(steps)]['units_ns']} units/ns")
    limits = _timing.limits(config.threads)
    rows = [_named(row) for row in rows]
    return {"rows": rows + [{"what": "limit of the machine", "implementation": n, "value": v} for n, v in limits.items()]}


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """Columns `times_best` and `times_other` instead of one for every opponent."""
    against = {k.removeprefix("times "): v for k, v in row.items() if k.startswith("times ")}
    kept = {k: v for k, v in row.items() if not k.startswith("times ")}
    worst, best = (next(iter(against.values())), min(against.values())) if against else (None, None)
    return kept | {"times_torch": worst, "times_best_torch": best, "value": None}


def _gumbel_one_hot(a: Any) -> Any:
    import torch

    index = (a - torch.log(-torch.log(torch.rand_like(a)))).argmax(-1)
    return torch.nn.functional.one_hot(index, a.shape[-1]).to(a.dtype)


def _sigmoid_backward(gradient: Any, a: Any) -> Any:
    import torch

    p = torch.sigmoid(a)
    return gradient * p * (1 - p)


def _compiled(f: Callable[[Any], Any], x: Any) -> Callable[[], Any]:
    import torch

    made = torch.compile(f)
    made(x)
    return lambda: made(x)
