"""Autoencoder with a code of one-hot units by every estimator: the training bound at a reduced length.

The comparison of ReinMax and its successors: 784-512-256-NK, LeakyReLU(.2), grey MNIST pixels as targets, AdamW with a cosine
schedule, batches of 200, every method at the best of several learning rates. They train for 500 epochs; the length here is a
setting. The best rate is chosen by what is reported, the final training bound, as there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor

from dither import data, methods
from dither.experiments.autoencoders.training import Images, Training, train
from dither.experiments.core import cache
from dither.experiments.core.summary import mean_and_sd
from dither.models.vae import CategoricalVAE
from dither.tables import Progress, Result, Row
from dither.training.run_folder import RunFolder

METHODS = (
    "straight-through",
    "gumbel-rao:temperature=1.0,draws=20",
    "reinmax",
    "reinmax:temperature=1.2",
    "mve",
    "double-cv:samples=2",
    "score-function:leave-one-out,samples=2",
    "score-function:leave-one-out,samples=4",
)
PLACES = ("methods", "seeds", "lrs", "threads", "data_dir")  # no run depends on them


@dataclass(frozen=True)
class Config:
    """Autoencoder with a code of one-hot units by every estimator, each at its best learning rate."""

    data: str = "mnist"
    """mnist, fashion_mnist, omniglot or digits"""
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (0, 1, 2)
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    units: int = 32
    categories: int = 16
    hidden: tuple[int, ...] = (512, 256)
    steps: int = 15_000
    """the schedule ends there; 55 epochs of 55,000 images"""
    examples: int = 55_000
    """as many of the training images, the first, or all that there are"""
    batch_size: int = 200
    weight_decay: float = 0.01
    kl: Literal["analytic", "sampled"] = "analytic"
    record_every: int = 500
    threads: int = 1
    data_dir: Path | None = None


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """Train every method with every learning rate and seed: a row per method; curves: the records of its best rate.

    Each training is a run folder below `folder`: finished ones are not repeated, an interrupted one goes on.
    Rows: the best lr, train_nelbo (over seeds, of the last record_every steps), ms_per_step, and the mean of each rate as
    nelbo_lr_RATE.
    """
    for method in config.methods:
        methods.parse(method)
    torch.set_num_threads(config.threads)
    x = data.load(config.data, config.data_dir).train.x[: config.examples]
    cells = [
        _trained(config, method, lr, seed, x, folder, progress)
        for seed in config.seeds
        for method in config.methods
        for lr in config.lrs
    ]
    rows = [_summary(method, cells, config.lrs) for method in config.methods]
    best = {row["method"]: row["lr"] for row in rows}
    curves = [row for cell in cells if cell["lr"] == best[cell["method"]] for row in cell["curve"]]
    return {"rows": rows, "curves": curves, "seconds": sum(cell["seconds"] for cell in cells)}


def make_training(config: Config, method: str, lr: float, seed: int, pixels: int) -> Training:
    """Model, estimator, optimizers and schedule of one training, at its start."""
    torch.manual_seed(seed)
    model = CategoricalVAE((pixels, *config.hidden), units=config.units, categories=config.categories, kl=config.kl)
    estimator = methods.build(method, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=config.weight_decay, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    own = list(estimator.parameters())
    return Training(model, estimator, optimizer, torch.optim.Adam(own, 1e-3) if own else None, scheduler)


def _trained(config: Config, method: str, lr: float, seed: int, x: Tensor, folder: Path, progress: Progress) -> Row:
    """One training and its curve, cached in `result.json` of its run folder."""
    path = folder / f"{methods.slug(method)}-{lr:g}-{seed}"
    settings = {key: value for key, value in asdict(config).items() if key not in PLACES}
    settings |= {"method": method, "lr": lr, "seed": seed}
    if cached := cache.read(path / "result.json", settings):
        return cached
    training = make_training(config, method, lr, seed, x.shape[1])
    images = Images(x, config.batch_size, seed, binarised=False)
    with RunFolder.of(path, settings) as run_folder:
        records = train(run_folder, training, images, steps=config.steps, record_every=config.record_every)
    last = records[-1]
    cell = {
        "method": method,
        "lr": lr,
        "seed": seed,
        "nelbo": -last["train_elbo"],
        "seconds": last["seconds"],
        "ms_per_step": 1e3 * last["seconds"] / last["step"],
        "curve": [_point(method, lr, seed, record) for record in records],
    }
    progress(f"{method} lr {lr:g} seed {seed}: {-last['train_elbo']:.2f} nats in {last['seconds']:.0f} s")
    return cache.write(path / "result.json", settings, cell)


def _point(method: str, lr: float, seed: int, record: Row) -> Row:
    row = {"method": method, "lr": lr, "seed": seed, "step": record["step"], "seconds": round(record["seconds"], 2)}
    return row | {"train_elbo": round(record["train_elbo"], 4)}


def _summary(method: str, cells: list[Row], lrs: tuple[float, ...]) -> Row:
    own = {lr: [cell for cell in cells if cell["method"] == method and cell["lr"] == lr] for lr in lrs}
    means = {lr: fmean(cell["nelbo"] for cell in of_rate) for lr, of_rate in own.items()}
    best = min(means, key=lambda lr: means[lr])
    row: Row = {"method": method, "seeds": len(own[best]), "lr": best}
    row |= mean_and_sd("train_nelbo", [cell["nelbo"] for cell in own[best]])
    row["ms_per_step"] = round(fmean(cell["ms_per_step"] for cell in own[best]), 3)
    return row | {f"nelbo_lr_{lr:g}": mean for lr, mean in means.items()}
