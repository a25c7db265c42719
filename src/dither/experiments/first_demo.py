"""MNIST 784-100(binary)-10 by every estimator: accuracy at equal epochs and at equal wall-clock.

The published run trains a hundred stochastic binary units by straight-through to .9748, and by REINFORCE without a baseline
to .5937 only. Here every estimator gets the published optimizer (SGD .1, momentum .9, batch 64, 100 epochs) without any
tuning of its own, on 55,000 training images; 5,000 are for validation, and the test set is looked at once, at the end.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dither
from dither import data, methods
from dither.data import Dataset, Split
from dither.experiments.core import cache
from dither.experiments.core.summary import mean_and_sd
from dither.models.mlp import StochasticMLP
from dither.tables import Progress, Result, Row
from dither.training.loop import fit
from dither.training.run_folder import RunFolder

METHODS = (
    "deterministic",
    "straight-through:identity",
    "straight-through",
    "score-function",
    "score-function:mean",
    "score-function:optimal",
    "score-function:optimal,samples=10",
    "score-function:leave-one-out,samples=10",
)
PLACES = ("methods", "seeds", "threads", "data_dir")  # no run depends on them


@dataclass(frozen=True)
class Config:
    """MNIST 784-100(binary)-10 by every estimator, at equal epochs and equal wall-clock."""

    data: str = "mnist"
    methods: tuple[str, ...] = METHODS
    """samples=10 is ten samples per example; without it, one"""
    seeds: tuple[int, ...] = (0, 1, 2)
    hidden: int = 100
    epochs: int = 100
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    threads: int = 1
    data_dir: Path | None = None


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """Train every method with every seed: a row per method; curves: a row per method, seed and epoch.

    Each training is a run folder below `folder`: finished ones are not repeated, an interrupted one goes on.
    """
    for method in config.methods:
        methods.parse(method)
    torch.set_num_threads(config.threads)
    dataset = data.load(config.data, config.data_dir)
    if dataset.classes < 2:
        raise ValueError(f"data is {config.data!r}, which has no labels to learn: choose digits, mnist or fashion_mnist")
    cells = [_trained(config, method, seed, dataset, folder, progress) for seed in config.seeds for method in config.methods]
    curves = [row for cell in cells for row in cell["curve"]]
    rows = [_summary(method, cells) for method in config.methods]
    return {"rows": rows, "curves": curves, "seconds": sum(cell["seconds"] for cell in cells)}


def _trained(config: Config, method: str, seed: int, dataset: Dataset, folder: Path, progress: Progress) -> Row:
    """One training: its curve and its final test accuracies, cached in `result.json` of its run folder."""
    path = folder / f"{methods.slug(method)}-{seed}"
    settings = {key: value for key, value in asdict(config).items() if key not in PLACES} | {"method": method, "seed": seed}
    if cached := cache.read(path / "result.json", settings):
        return cached
    torch.manual_seed(seed)
    model = StochasticMLP((dataset.train.x.shape[1], config.hidden, dataset.classes))
    with RunFolder.of(path, settings) as run_folder:
        curve = _fitted(config, method, seed, model, dataset, run_folder)
    torch.manual_seed(dither.noise.step_seed(seed, -1))
    test = {f"test_{samples}": accuracy(model, dataset.test, method, samples) for samples in (1, 10)}
    cell = {"method": method, "seed": seed, "seconds": curve[-1]["seconds"], **test}
    cell["validation_10"] = accuracy(model, dataset.valid, method, 10)
    cell["curve"] = [_point(method, seed, record) for record in curve]
    progress(f"{method} seed {seed}: test {test['test_1']:.4f} / {test['test_10']:.4f} in {cell['seconds']:.0f} s")
    return cache.write(path / "result.json", settings, cell)


def _fitted(config: Config, method: str, seed: int, model: nn.Module, dataset: Dataset, run_folder: RunFolder) -> list[Row]:
    """Trains the model; the records, with seconds of training."""
    fit(
        model,
        methods.build(method, model),
        torch.optim.SGD(model.parameters(), config.lr, config.momentum),
        cost,
        (dataset.train.x, dataset.train.y),
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=seed,
        run=run_folder,
        resume=True,
        evaluate=lambda: {"validation_accuracy": accuracy(model, dataset.valid, method, 1)},
    )
    return run_folder.curve()


def cost(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y, reduction="none")


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, method: str, samples: int) -> float:
    """Of the mean prediction over samples; of the mean network, for the method that trains it."""
    if method == "deterministic":
        with dither.deterministic("mean"):
            p = model(split.x)
    else:
        p = torch.stack([model(split.x).softmax(1) for _ in range(samples)]).mean(0)
    return float((p.argmax(1) == split.y).double().mean())


def _point(method: str, seed: int, record: Row) -> Row:
    row = {"method": method, "seed": seed, "epoch": record["epoch"], "seconds": round(record["seconds"], 2)}
    return row | {key: round(record[key], 5) for key in ("train_loss", "validation_accuracy")}


def _summary(method: str, cells: list[Row]) -> Row:
    own = [cell for cell in cells if cell["method"] == method]
    row: Row = {"method": method, "seeds": len(own)}
    for key in ("test_1", "test_10", "validation_10"):
        row |= mean_and_sd(key, [cell[key] for cell in own])
    return row | {"seconds": round(fmean(cell["seconds"] for cell in own), 1)}
