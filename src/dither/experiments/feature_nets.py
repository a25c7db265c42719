"""The feature nets that `dither.metrics` comes with, trained again: the space in which samples are judged.

Trained on the training part of a labelled data set; the test part is looked at once, at the end. The files written into the
folder are those of the package where torch, machine and number of threads are the same, and nets as good elsewhere: numbers
taken with two nets do not compare, so the package keeps the ones it has.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def run(config: Config, folder: Path, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    """{"rows": a row per data set}, and the file NAME_features.safetensors of each in `folder`."""
    import torch

    from dither import data, files, metrics

    unknown = sorted(set(config.data) - set(RECIPES))
    if unknown:
        raise ValueError(f"there are no labelled images {unknown[0]!r}; choose among {', '.join(RECIPES)}")
    torch.set_num_threads(config.threads)
    rows = []
    for name in config.data:
        dataset, (epochs, batch_size) = data.load(name, config.data_dir), RECIPES[name]
        epochs, began = config.epochs or epochs, time.perf_counter()
        net = metrics.train_feature_net(
            dataset.train.x, dataset.train.y, dataset.shape, dataset.classes, config.seed, epochs, batch_size
        )
        seconds = time.perf_counter() - began
        files.make_dir(folder)
        files.write_atomic(folder / f"{name}_features.safetensors", metrics.to_bytes(net))
        accuracy = float((net.classify(dataset.test.x) == dataset.test.y).double().mean())
        row = {"data": name, "test_accuracy": round(accuracy, 4), "parameters": sum(w.numel() for w in net.parameters())}
        rows.append(row | {"sha256": metrics.hash(net), "seconds": round(seconds, 1)})
        progress(f"{name}: test accuracy {accuracy:.4f} after {epochs} epochs, {seconds:.0f} s")
    return {"rows": rows}
