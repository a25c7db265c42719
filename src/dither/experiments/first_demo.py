"""MNIST 784-100(binary)-10 by every estimator: accuracy at equal epochs and at equal wall-clock.

The published run trains a hundred stochastic binary units by straight-through to .9748, and by REINFORCE without a baseline
to .5937 only. Here every estimator gets the published optimizer (SGD .1, momentum .9, batch 64, 100 epochs) without any
tuning of its own, on 55,000 training images; 5,000 are for validation, and the test set is looked at once, at the end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

METHODS = (
    "deterministic",
    "straight-through-identity",
    "straight-through",
    "score",
    "score-mean",
    "score-optimal",
    "score-optimal-10",
    "score-leave-one-out-10",
)


@dataclass(frozen=True)
class Config:
    """MNIST 784-100(binary)-10 by every estimator, at equal epochs and equal wall-clock."""

    data: str = "mnist"
    methods: tuple[str, ...] = METHODS
    """score-optimal-10 has ten samples per example; without a number, one"""
    seeds: tuple[int, ...] = (0, 1, 2)
    hidden: int = 100
    epochs: int = 100
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    threads: int = 1
    data_dir: Path | None = None


def run(config: Config, folder: Path, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """Train every method with every seed and return {"rows": a row per method, "curves": a row per method, seed, epoch}.

    Each training is a run folder below `folder`: finished ones are not repeated, an interrupted one goes on.
    """
    import torch

    from dither import data

    torch.set_num_threads(config.threads)
    dataset = data.load(config.data, config.data_dir)
    if dataset.classes < 2:
        raise ValueError(f"data is {config.data!r}, which has no labels to learn: choose digits, mnist or fashion_mnist")
    cells = [_cell(config, method, seed, dataset, folder, progress) for seed in config.seeds for method in config.methods]
    curves = [row for cell in cells for row in cell["curve"]]
    rows = [_summary(method, cells) for method in config.methods]
    return {"rows": rows, "curves": curves, "seconds": sum(cell["seconds"] for cell in cells)}


def make_estimator(method: str, model: Any) -> Any:
    import dither

    name, _, count = method.rpartition("-")
    name, samples = (name, int(count)) if count.isdigit() else (method, 1)
    match name:
        case "deterministic":
            return dither.Deterministic(model)
        case "straight-through-identity":
            return dither.StraightThrough(model, "identity", samples=samples)
        case "straight-through":
            return dither.StraightThrough(model, "sigmoid", samples=samples)
        case "score":
            return dither.ScoreFunction(model, samples=samples)
        case "score-mean" | "score-optimal" | "score-leave-one-out":
            return dither.ScoreFunction(model, name.removeprefix("score-"), samples=samples)
        case "mixture":
            return dither.Blend(model, samples=max(samples, 2))
        case "mixture-control-variate":
            return dither.Blend(model, "control-variate", samples=max(samples, 2))
    raise ValueError(f"there is no method {method!r}; choose among {', '.join(METHODS)} (any number of samples at the end)")


def _cell(config: Config, method: str, seed: int, dataset: Any, folder: Path, progress: Callable[[str], None]) -> dict:
    """One training: its curve and its final test accuracies, kept in `result.json` of its run folder."""
    import torch
    import torch.nn.functional as F

    import dither
    from dither import files
    from dither.models.mlp import StochasticMLP
    from dither.training import metrics_log
    from dither.training.loop import fit
    from dither.training.run_folder import RunFolder

    path = folder / f"{method}-{seed}"
    settings = {k: v for k, v in asdict(config).items() if k not in ("methods", "seeds", "threads", "data_dir")}
    settings |= {"method": method, "seed": seed}
    done = path / "result.json"
    if done.is_file() and json.loads((path / "config.json").read_text()) == settings:
        return json.loads(done.read_text())

    torch.manual_seed(seed)
    features, classes = dataset.train.x.shape[1], dataset.classes
    model = StochasticMLP((features, config.hidden, classes))
    estimator = make_estimator(method, model)
    optimizer = torch.optim.SGD(model.parameters(), config.lr, config.momentum)

    def accuracy(split: Any, samples: int) -> float:
        with torch.no_grad():
            if method == "deterministic":
                with dither.deterministic("mean"):
                    p = model(split.x)
            else:
                p = torch.stack([model(split.x).softmax(1) for _ in range(samples)]).mean(0)
        return float((p.argmax(1) == split.y).double().mean())

    started = time.perf_counter()
    resume = (path / "config.json").is_file()
    with RunFolder.open(path) if resume else RunFolder.create(path, settings) as folder_of_run:
        records = fit(
            model, estimator, optimizer, lambda model, x, y: F.cross_entropy(model(x), y, reduction="none"),
            (dataset.train.x, dataset.train.y), epochs=config.epochs, batch_size=config.batch_size, seed=seed,
            run=folder_of_run, resume=resume, evaluate=lambda: {"validation_accuracy": accuracy(dataset.valid, 1)},
        )  # fmt: skip
        seconds = [row["seconds"] for row in metrics_log.read(path / "timing.jsonl")]
    curve = [
        {"method": method, "seed": seed, "epoch": r["epoch"], "seconds": round(sum(seconds[: i + 1]), 2)}
        | {key: round(r[key], 5) for key in ("train_loss", "validation_accuracy")}
        for i, r in enumerate(records)
    ]
    torch.manual_seed(dither.noise.step_seed(seed, -1))
    test = {f"test_{samples}": accuracy(dataset.test, samples) for samples in (1, 10)}
    validation = {"validation_10": accuracy(dataset.valid, 10)}
    cell = {"method": method, "seed": seed, "seconds": sum(seconds), **test, **validation, "curve": curve}
    files.write_json(done, cell)
    progress(
        f"{method} seed {seed}: test {test['test_1']:.4f} / {test['test_10']:.4f} in {time.perf_counter() - started:.0f} s"
    )
    return cell


def _summary(method: str, cells: list[dict]) -> dict[str, Any]:
    own = [cell for cell in cells if cell["method"] == method]
    row: dict[str, Any] = {"method": method, "seeds": len(own)}
    for key in ("test_1", "test_10"):
        values = [cell[key] for cell in own]
        row |= {key: round(fmean(values), 4), f"{key}_least": min(values), f"{key}_most": max(values)}
    row["validation_10"] = round(fmean(cell["validation_10"] for cell in own), 4)
    return row | {"seconds": round(fmean(cell["seconds"] for cell in own), 1)}
