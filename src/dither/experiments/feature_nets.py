"""The feature nets that `dither.metrics` comes with, trained again: the space in which samples are evaluated.

Trained on the training part of a labelled data set; the test part is looked at once, at the end. The files written into
the folder are those of the package where torch, machine and number of threads are the same, and nets as good elsewhere.
Numbers taken with two nets do not compare, so the package stays with the ones it has.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from dither import data, files, metrics
from dither.tables import Progress, Result, Row

RECIPES = {"mnist": (4, 64), "fashion_mnist": (8, 64), "digits": (60, 32)}  # epochs, batch size


@dataclass(frozen=True)
class Config:
    """Train the feature nets of dither.metrics, and write them as safetensors files."""

    data: tuple[str, ...] = ("mnist", "digits")
    """labelled images: mnist, fashion_mnist, digits"""
    epochs: int | None = None
    """by default 4 for mnist, 8 for fashion_mnist, 60 for digits"""
    seed: int = 0
    threads: int = 1
    data_dir: Path | None = None


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": a row per data set}, and the file NAME_features.safetensors of each in `folder`."""
    if unknown := sorted(set(config.data) - set(RECIPES)):
        raise ValueError(f"there are no labelled images {unknown[0]!r}; there are {', '.join(RECIPES)}")
    torch.set_num_threads(config.threads)
    return {"rows": [_trained(config, name, folder, progress) for name in config.data]}


def _trained(config: Config, name: str, folder: Path, progress: Progress) -> Row:
    """The row of a net that is trained and written."""
    dataset, (epochs, batch_size) = data.load(name, config.data_dir), RECIPES[name]
    (x, y), epochs = (dataset.train.x, dataset.train.y), config.epochs or epochs
    began = time.perf_counter()
    net = metrics.train_feature_net(
        x, y, dataset.shape, dataset.classes, seed=config.seed, epochs=epochs, batch_size=batch_size
    )
    seconds = time.perf_counter() - began
    files.make_dir(folder)
    files.write_atomic(folder / f"{name}_features.safetensors", metrics.to_bytes(net))
    accuracy = float((net.classify(dataset.test.x) == dataset.test.y).double().mean())
    progress(f"{name}: test accuracy {accuracy:.4f} after {epochs} epochs, {seconds:.0f} s")
    row: Row = {"data": name, "test_accuracy": round(accuracy, 4)}
    row |= {"parameters": sum(weight.numel() for weight in net.parameters())}
    return row | {"sha256": metrics.hash(net), "seconds": round(seconds, 1)}
