"""Autoencoder with a code of one-hot units by every estimator: the training bound at a reduced length.

The comparison of ReinMax and its successors: 784-512-256-NK, LeakyReLU(.2), grey MNIST pixels as targets, AdamW with a cosine
schedule, batches of 200, every method at the best of several learning rates. They train for 500 epochs; the length here is a
setting. The best rate is chosen by what is reported, the final training bound, as there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import dither

# name -> (model -> estimator)
METHODS: dict[str, Callable[[Any], Any]] = {
    "straight-through": lambda model: dither.StraightThrough(model),
    "gumbel-rao": lambda model: dither.GumbelRao(model, temperature=1.0, draws=20),
    "zgr": lambda model: dither.ReinMax(model, temperature=1.0),
    "reinmax-1.2": lambda model: dither.ReinMax(model, temperature=1.2),
    "mve": lambda model: dither.MVE(model),
    "double-cv-2": lambda model: dither.DoubleCV(model, samples=2),
    "leave-one-out-2": lambda model: dither.ScoreFunction(model, "leave-one-out", samples=2),
    "leave-one-out-4": lambda model: dither.ScoreFunction(model, "leave-one-out", samples=4),
}


@dataclass(frozen=True)
class Config:
    """Autoencoder with a code of one-hot units by every estimator, each at its best learning rate."""

    data: str = "mnist"
    """mnist, fashion_mnist, omniglot or digits"""
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: tuple[int, ...] = (0, 1, 2)
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    units: int = 32
    categories: int = 16
    hidden: tuple[int, ...] = (512, 256)
    steps: int = 15_000
    """the schedule ends there; 55 epochs of 55,000 images"""
    examples: int = 55_000
    """so many of the training images, the first, or all that there are"""
    batch_size: int = 200
    weight_decay: float = 0.01
    kl: Literal["analytic", "sampled"] = "analytic"
    record_every: int = 500
    threads: int = 1
    data_dir: Path | None = None


PLACES = ("methods", "seeds", "lrs", "threads", "data_dir")  # no run depends on them


def run(config: Config, folder: Path, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """Train every method with every learning rate and seed; {"rows": a row per method, "curves": its best rate's records}.

    Each training is a run folder below `folder`: finished ones are not repeated, an interrupted one goes on.
    Rows: the best lr, train_nelbo (mean over seeds, with least and most, over the last record_every steps), ms_per_step,
    and the mean of each rate as nelbo_lr_RATE.
    """
    import torch

    from dither import data

    if unknown := sorted(set(config.methods) - METHODS.keys()):
        raise ValueError(f"there is no method {', '.join(unknown)}; choose among {', '.join(METHODS)}")
    torch.set_num_threads(config.threads)
    x = data.load(config.data, config.data_dir).train.x[: config.examples]
    cells = [
        _cell(config, method, lr, seed, x, folder, progress)
        for seed in config.seeds
        for method in config.methods
        for lr in config.lrs
    ]
    rows = [_summary(method, cells, config.lrs) for method in config.methods]
    best = {row["method"]: row["lr"] for row in rows}
    curves = [row for cell in cells if cell["lr"] == best[cell["method"]] for row in cell["curve"]]
    return {"rows": rows, "curves": curves, "seconds": sum(cell["seconds"] for cell in cells)}


def make_training(config: Config, method: str, lr: float, seed: int, pixels: int) -> Any:
    """Model, estimator, optimizers and schedule of one training, at its start."""
    import torch

    from dither.experiments._vae import Training
    from dither.models.vae import CategoricalVAE

    torch.manual_seed(seed)
    model = CategoricalVAE((pixels, *config.hidden), config.units, config.categories, kl=config.kl)
    estimator = METHODS[method](model)
    own = list(estimator.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=config.weight_decay, fused=True)
    return Training(
        model,
        estimator,
        optimizer,
        torch.optim.Adam(own, 1e-3) if own else None,
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps),
    )


def _cell(
    config: Config, method: str, lr: float, seed: int, x: Any, folder: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    """One training and its curve, kept in `result.json` of its run folder."""
    from dither.experiments import _vae

    path = folder / f"{method}-{lr:g}-{seed}"
    settings = {k: v for k, v in asdict(config).items() if k not in PLACES} | {"method": method, "lr": lr, "seed": seed}
    settings = json.loads(json.dumps(settings))
    if kept := _vae.finished(path / "result.json", settings):
        return kept
    began = time.monotonic()
    training = make_training(config, method, lr, seed, x.shape[1])
    plan = _vae.Plan(config.steps, config.batch_size, seed, binarise=False, record_every=config.record_every)
    with _vae.open_run(path, settings) as run_folder:
        records = _vae.train(run_folder, training, x, plan)
    last = records[-1]
    cell = {
        "method": method,
        "lr": lr,
        "seed": seed,
        "nelbo": -last["train_elbo"],
        "seconds": last["seconds"],
        "ms_per_step": 1e3 * last["seconds"] / last["step"],
        "curve": [
            {"method": method, "lr": lr, "seed": seed, "step": r["step"], "seconds": round(r["seconds"], 2)}
            | {"train_elbo": round(r["train_elbo"], 4)}
            for r in records
        ],
    }
    progress(f"{method} lr {lr:g} seed {seed}: {-last['train_elbo']:.2f} nats in {time.monotonic() - began:.0f} s")
    return _vae.finish(path / "result.json", settings, cell)


def _summary(method: str, cells: list[dict], lrs: tuple[float, ...]) -> dict[str, Any]:
    own = {lr: [cell for cell in cells if cell["method"] == method and cell["lr"] == lr] for lr in lrs}
    means = {lr: fmean(cell["nelbo"] for cell in found) for lr, found in own.items()}
    best = min(means, key=lambda lr: means[lr])
    finals = [cell["nelbo"] for cell in own[best]]
    row: dict[str, Any] = {"method": method, "seeds": len(finals), "lr": best, "train_nelbo": round(means[best], 3)}
    row |= {"train_nelbo_least": round(min(finals), 3), "train_nelbo_most": round(max(finals), 3)}
    row["ms_per_step"] = round(fmean(cell["ms_per_step"] for cell in own[best]), 3)
    return row | {f"nelbo_lr_{lr:g}": round(mean, 3) for lr, mean in means.items()}
