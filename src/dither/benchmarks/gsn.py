"""An epoch of training GSN-2 (784-1500-1500, 4 steps, batch 100, 60,000 examples) by the authors' recipe.

    dither              models.GSN, the recipe of gsn-mnist, SGD included
    products            its 26 matrix products alone, at the same setting: 14 forward, 10 backward, 2 for the weights
    torch               a literal transcription in eager torch at its defaults (float32 matmul precision "highest")
    torch, best         the same at the best setting
    dither, bfloat16    under torch.autocast, another accuracy

A step is measured and multiplied by the 600 of an epoch. All take turns, in blocks of four steps; the first of a block, which
finds the caches as another implementation left them, is told apart, since in an epoch a step follows its own kind. `floor` is
the arithmetic at the machine's measured rate of multiply-adds.

On a GPU all but `torch` are CUDA graphs, `torch, best` the transcription at the best setting as one; `dither, eager` is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any


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


def run(config: Config, folder: Path, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    """{"rows": a row per implementation}: seconds of an epoch, and times the products and eager torch."""
    from dither.experiments import _timing

    _timing.prepare(config.threads, config.precision, config.seed)
    if config.device == "cuda":
        rate, taken = product_rate(), {name: many(step) for name, step in steps_on_gpu(config).items()}
    else:
        rate, taken = _timing.limits(config.threads).get("fma_gflop_s"), steps(config)
    against = {"times_products": "products", "times_torch": "torch", "times_torch_best": "torch, best"}
    hot, cold = _timing.in_blocks(taken, config.repeats)
    if config.device == "cuda":
        hot, cold = ({name: [ms / AT_ONCE for ms in found] for name, found in times.items()} for times in (hot, cold))
    rows, first = _timing.rows_of(hot, against), _timing.rows_of(cold, against)
    per_epoch = config.examples / config.batch_size
    for row, one in zip(rows, first, strict=True):
        row["epoch_seconds"] = round(row["milliseconds"] * per_epoch / 1e3, 3)
        row |= {"first_milliseconds": one["milliseconds"], "first_times_products": one["times_products"]}
    flop = multiply_adds(config) * 2 * config.examples
    if rate:
        rows.append({"implementation": "floor", "epoch_seconds": round(flop / rate / 1e9, 3)})
    progress(f"{flop / 1e12:.1f} TFLOP an epoch; dither takes {rows[0]['times_products']} of its products' time")
    return {"rows": rows}


def multiply_adds(config: Config) -> int:
    """Of one example: what the recipe needs. The first product from h_2 is with zeros, the last update of h_2 is not seen."""
    low, high, walk = config.units * config.width, config.width**2, config.walk
    forward = 2 * walk * low + 2 * (walk - 1) * high
    backward = 2 * forward - walk * low  # no gradient flows into the corrupted input
    return forward + backward


def steps(config: Config) -> dict[str, Callable[[], Any]]:
    x, dither_step = ours(config)
    return {
        "dither": dither_step,
        "products": products(config),
        "torch": at("highest", eager(config, x), config.precision),
        "torch, best": eager(config, x),
        "dither, bfloat16": lambda: dither_step(True),
    }


def ours(config: Config) -> tuple[Any, Callable[..., None]]:
    """(a batch, the step by models.GSN)."""
    import torch

    from dither.experiments import _gsn
    from dither.models.gsn import GSN

    x = torch.rand(config.batch_size, config.units, device=config.device)
    model = GSN((config.units, config.width, config.width), steps=config.walk).to(config.device)
    optimizer = _gsn.sgd(model, 0.25 / config.units, 0.5)

    def step(bfloat16: bool = False) -> None:
        optimizer.zero_grad()
        with torch.autocast(config.device, torch.bfloat16, enabled=bfloat16):
            cost = model.cost(x).mean()
        cost.backward()
        optimizer.step()

    return x, step


# --- on a GPU -----------------------------------------------------------------------------------------------------------
AT_ONCE = 20  # steps between two looks at the clock, which wait for the GPU


def steps_on_gpu(config: Config) -> dict[str, Callable[[], Any]]:
    from dither.cuda_graphs import Graphed

    x, dither_step = ours(config)

    def graphed(step: Callable[..., None], *options: Any) -> Callable[[], Any]:
        def whole() -> tuple[Any, ...]:
            step(*options)
            return ()

        made = Graphed(whole)
        for _ in range(4):  # recorded at the setting of all but `torch`
            made()
        return made

    return {
        "dither": graphed(dither_step),
        "products": graphed(products(config)),
        "torch": at("highest", eager(config, x), config.precision),
        "torch, best": graphed(eager(config, x)),
        "dither, bfloat16": graphed(dither_step, True),
        "dither, eager": dither_step,
    }


def many(step: Callable[[], Any]) -> Callable[[], None]:
    import torch

    def steps() -> None:
        for _ in range(AT_ONCE):
            step()
        torch.cuda.synchronize()

    steps()
    return steps


def product_rate() -> float:
    """GFLOP/s of a large product on the GPU at the setting, the best of five."""
    import torch

    from dither.experiments import _timing

    n = 8192
    a, b = torch.randn(n, n, device="cuda"), torch.randn(n, n, device="cuda")

    def product() -> None:
        _ = a @ b
        torch.cuda.synchronize()

    return 2 * n**3 / 1e6 / min(_timing.in_turn({"": product}, 5)[""])


# --- what it is compared with -------------------------------------------------------------------------------------------
def at(precision: str, step: Callable[[], Any], afterwards: str) -> Callable[[], Any]:
    import torch

    def wrapped() -> None:
        torch.set_float32_matmul_precision(precision)
        step()
        torch.set_float32_matmul_precision(afterwards)

    return wrapped


def products(config: Config) -> Callable[[], Any]:
    """Every product of a step, with no more around it than the memory for its result."""
    import torch

    def some(rows: int, columns: int) -> Any:
        return torch.randn(rows, columns, device=config.device)

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


def eager(config: Config, x: Any) -> Callable[[], Any]:
    """The recipe as it reads, in plain torch."""
    import torch
    import torch.nn.functional as F

    sizes = (config.units, config.width, config.width)
    uniform = [torch.rand(a, b, device=x.device) * 2 - 1 for a, b in pairwise(sizes)]
    weights = [torch.nn.Parameter(u * (6 / sum(u.shape)) ** 0.5) for u in uniform]
    biases = [torch.nn.Parameter(torch.zeros(size, device=x.device)) for size in sizes]
    optimizer = torch.optim.SGD([*weights, *biases], 0.25, momentum=0.5, dampening=0.5)

    def salt_and_pepper(x: Any) -> Any:
        keep = torch.bernoulli(torch.full_like(x, 0.6))
        return x * keep + (1 - keep) * torch.bernoulli(torch.full_like(x, 0.5))

    def noise(a: Any) -> Any:
        return a + 2 * torch.randn_like(a)

    def step() -> None:
        visible, h2, cost = salt_and_pepper(x), x.new_zeros(len(x), config.width), x.new_zeros(())
        for _ in range(config.walk):
            h1 = torch.tanh(visible @ weights[0] + h2 @ weights[1].T + biases[1])
            p = torch.sigmoid(h1 @ weights[0].T + biases[0])
            h2 = noise(torch.tanh(noise(h1 @ weights[1] + biases[2])))
            cost = cost + F.binary_cross_entropy(p, x)
            visible = salt_and_pepper(torch.bernoulli(p.detach()))
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()

    return step
