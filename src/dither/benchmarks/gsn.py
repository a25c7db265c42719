"""An epoch of training GSN-2 (784-1500-1500, 4 steps, batch 100, 60,000 examples) by the authors' recipe.

    dither              models.GSN, the recipe of gsn-mnist, SGD included
    products            its 26 matrix products alone, at the same setting: 14 forward, 10 backward, 2 for the weights
    torch               a literal transcription in eager torch at its defaults (float32 matmul precision "highest")
    torch, best         the same at the best setting
    dither, bfloat16    under torch.autocast, another accuracy

A step is measured and multiplied by the 600 of an epoch. All take turns, in blocks of four steps. The first of a block
finds the caches as another implementation left them: it is reported separately (`first_*`), since in an epoch a step
follows its own kind. `floor` is the arithmetic at the machine's measured rate of multiply-adds.

On a GPU all but `torch` are CUDA graphs, `torch, best` the transcription at the best setting as one; `dither, eager` is
not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither.benchmarks import timing
from dither.benchmarks.timing import Step
from dither.cuda_graphs import Graphed
from dither.models.gsn import GSN
from dither.tables import Progress, Result, Row

AGAINST = {"times_products": "products", "times_torch": "torch", "times_torch_best": "torch, best"}
LR, MOMENTUM = 0.25, 0.5  # the authors', of a loss averaged over pixels
AT_ONCE = 20  # steps on a GPU between two looks at the clock, which wait for the GPU


@dataclass(frozen=True)
class Config:
    """The time of a training epoch of GSN-2 beside its matrix products and beside eager torch."""

    units: int = 784
    width: int = 1500
    walk: int = 4
    """steps of the walk"""
    batch_size: int = 100
    examples: int = 60_000
    precision: str = "medium"
    """torch.set_float32_matmul_precision of all but the eager version at torch's defaults"""
    repeats: int = 15
    threads: int = 2
    device: str = "cpu"
    """cuda: dither as CUDA graphs, beside its products as one, and beside torch, eager and as one"""
    seed: int = 0


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": a row per implementation}: seconds of an epoch, and times the products and eager torch."""
    timing.prepare(config.threads, config.precision, config.seed)
    on_gpu = config.device == "cuda"
    measured = {name: many(step) for name, step in steps_on_gpu(config).items()} if on_gpu else steps(config)
    rate = product_rate() if on_gpu else timing.multiply_add_rate(config.threads)
    hot, cold = timing.in_blocks(measured, config.repeats)
    if on_gpu:
        hot, cold = ({name: [ms / AT_ONCE for ms in own] for name, own in times.items()} for times in (hot, cold))
    rows = _rows(config, hot, cold)
    flop = multiply_adds(config) * 2 * config.examples
    if rate:
        rows.append({"implementation": "floor", "epoch_seconds": round(flop / rate / 1e9, 3)})
    progress(f"{flop / 1e12:.1f} TFLOP an epoch; dither takes {rows[0]['times_products']} of its products' time")
    return {"rows": rows}


def _rows(config: Config, hot: timing.Times, cold: timing.Times) -> list[Row]:
    rows, per_epoch = timing.rows_of(hot, AGAINST), config.examples / config.batch_size
    for row, first in zip(rows, timing.rows_of(cold, AGAINST), strict=True):
        row["epoch_seconds"] = round(row["milliseconds"] * per_epoch / 1e3, 3)
        row |= {"first_milliseconds": first["milliseconds"], "first_times_products": first["times_products"]}
    return rows


def multiply_adds(config: Config) -> int:
    """Of one example, what the recipe needs.

    The first product from h_2 is with zeros, and the last update of h_2 is not seen.
    """
    low, high, walk = config.units * config.width, config.width**2, config.walk
    forward = 2 * walk * low + 2 * (walk - 1) * high
    backward = 2 * forward - walk * low  # no gradient flows into the corrupted input
    return forward + backward


def steps(config: Config) -> dict[str, Step]:
    x, by_dither = ours(config)
    return {
        "dither": by_dither,
        "products": products(config),
        "torch": at("highest", eager(config, x), config.precision),
        "torch, best": eager(config, x),
        "dither, bfloat16": partial(by_dither, True),
    }


def ours(config: Config) -> tuple[Tensor, Callable[..., None]]:
    """(a batch, the step by models.GSN, which takes whether to compute in bfloat16)."""
    x = torch.rand(config.batch_size, config.units, device=config.device, dtype=torch.float32)
    model = GSN((config.units, config.width, config.width), steps=config.walk).to(config.device)
    optimizer = torch.optim.SGD(model.parameters(), LR / config.units, MOMENTUM, dampening=MOMENTUM, fused=True)
    for p in model.parameters():  # the recipe's momentum starts from 0, torch's from the first gradient
        optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)

    def step(bfloat16: bool = False) -> None:
        optimizer.zero_grad()
        with torch.autocast(config.device, torch.bfloat16, enabled=bfloat16):
            cost = model.cost(x).mean()
        cost.backward()
        optimizer.step()

    return x, step


# --- on a GPU ---------------------------------------------------------------------------------------------------------
def steps_on_gpu(config: Config) -> dict[str, Step]:
    x, by_dither = ours(config)
    return {
        "dither": graphed(by_dither),
        "products": graphed(products(config)),
        "torch": at("highest", eager(config, x), config.precision),
        "torch, best": graphed(eager(config, x)),
        "dither, bfloat16": graphed(partial(by_dither, True)),
        "dither, eager": by_dither,
    }


def graphed(step: Step) -> Step:
    """The step as a CUDA graph."""

    def whole() -> tuple[Tensor | None, ...]:
        step()
        return ()

    graph = Graphed(whole)
    for _ in range(4):  # recorded at the setting of all but `torch`
        graph()
    return graph


def many(step: Step) -> Step:
    def steps() -> None:
        for _ in range(AT_ONCE):
            step()
        torch.cuda.synchronize()

    steps()
    return steps


def product_rate() -> float:
    """GFLOP/s of a large product on the GPU at the setting, the best of five."""
    n = 8192
    a, b = torch.randn(n, n, device="cuda", dtype=torch.float32), torch.randn(n, n, device="cuda", dtype=torch.float32)

    def product() -> None:
        _ = a @ b
        torch.cuda.synchronize()

    return 2 * n**3 / 1e6 / min(timing.in_turn({"": product}, 5)[""])


# --- what it is compared with -----------------------------------------------------------------------------------------
def at(precision: str, step: Step, afterwards: str) -> Step:
    def wrapped() -> None:
        torch.set_float32_matmul_precision(precision)
        step()
        torch.set_float32_matmul_precision(afterwards)

    return wrapped


def products(config: Config) -> Step:
    """Every product of a step, with no more around it than the memory for its result."""

    def some(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, device=config.device, dtype=torch.float32)

    walk, batch = config.walk, config.batch_size
    low, high = some(config.width, config.units), some(config.width, config.width)
    x, h = some(batch, config.units), some(batch, config.width)
    below, above = some(2 * walk * batch, config.units), some(2 * walk * batch, config.width)
    upper = some(2 * (walk - 1) * batch, config.width)

    def step() -> None:
        for _ in range(walk):
            _ = x @ low.T, h @ low, x @ low.T  # up, down, gradient of down
        for _ in range(walk - 1):
            _ = h @ high.T, h @ high, h @ high, h @ high.T
        _ = above.T @ below, upper.T @ upper

    return step


def eager(config: Config, x: Tensor) -> Step:
    """The recipe as it reads, in plain torch."""
    sizes = (config.units, config.width, config.width)
    uniform = [torch.rand(a, b, device=x.device, dtype=torch.float32) * 2 - 1 for a, b in pairwise(sizes)]
    weights = [nn.Parameter(u * (6 / sum(u.shape)) ** 0.5) for u in uniform]
    biases = [nn.Parameter(torch.zeros(size, dtype=torch.float32, device=x.device)) for size in sizes]
    optimizer = torch.optim.SGD([*weights, *biases], LR, momentum=MOMENTUM, dampening=MOMENTUM)

    def step() -> None:
        visible, h2, cost = _salt_and_pepper(x), x.new_zeros(len(x), config.width), x.new_zeros(())
        for _ in range(config.walk):
            h1 = torch.tanh(visible @ weights[0] + h2 @ weights[1].T + biases[1])
            p = torch.sigmoid(h1 @ weights[0].T + biases[0])
            h2 = _noisy(torch.tanh(_noisy(h1 @ weights[1] + biases[2])))
            cost = cost + F.binary_cross_entropy(p, x)
            visible = _salt_and_pepper(torch.bernoulli(p.detach()))
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()

    return step


def _salt_and_pepper(x: Tensor) -> Tensor:
    keep = torch.bernoulli(torch.full_like(x, 0.6))
    return x * keep + (1 - keep) * torch.bernoulli(torch.full_like(x, 0.5))


def _noisy(a: Tensor) -> Tensor:
    return a + 2 * torch.randn_like(a)
