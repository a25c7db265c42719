"""Half of an image given, the other half sampled: clamped chains beside an any-conditional model, and floors.

The left, right, top or bottom half of thresholded test digits is clamped, and completed several times by every method.
A stored classifier says whether a completion is the digit it was. All methods see the training and the validation part.

    agreement    share of completions that the classifier gives the image's label, with the standard error over images,
                 and by given half
    labels       distinct labels among the completions of one image
    distance     mean share of free pixels in which two of them differ
    error        share of free pixels in which one differs from the image
    white        share of completions whose free pixels are mostly on, which is what digits are not
    nats         -log P(free half | given half), with the standard error over images
    spread       the standard deviation of nats over orders
    ms           of one completion, in a batch of all
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dither import data, metrics, noise
from dither.experiments.inpainting import evaluation
from dither.experiments.inpainting.completions import Task, complete
from dither.experiments.inpainting.config import Config, check
from dither.experiments.inpainting.evaluation import Part, evaluate, nats, summary
from dither.experiments.inpainting.models import trained
from dither.models import masks
from dither.plots import images
from dither.tables import NamedFigure, Progress, Result, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["Config", "run"]


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": a row per method and reference, "figures": a picture per method}.

    Trainings are run folders below `folder`.
    """
    check(config)
    torch.set_num_threads(config.threads)
    dataset = data.load(config.data, config.data_dir)
    train = (torch.cat((dataset.train.x, dataset.valid.x)) > 0.5).float()
    models, seconds = trained(config, train, folder, progress)
    x, y = (dataset.test.x[: config.images] > 0.5).float(), dataset.test.y[: config.images]
    classify, shape = metrics.feature_net(config.data).classify, (dataset.shape[1], dataset.shape[2])
    task, began = Task(config, train, x, y, classify, masks.halves(shape), models), time.perf_counter()
    rows, figures = evaluation.references(task), list[NamedFigure]()
    for method in config.methods:
        row, shown = by_method(task, method, progress)
        rows.append(row)
        figures.append((method, picture(task, method, shown, shape)))
    if config.orders and models.any_conditional is not None:
        rows.append(along_orders(task, progress))
    rows = [dict.fromkeys((*rows[0], "spread", "ms")) | row for row in rows]
    return {"rows": rows, "figures": figures, "seconds": seconds + time.perf_counter() - began}


@torch.no_grad()
def by_method(task: Task, method: str, progress: Progress) -> tuple[Row, list[Tensor]]:
    """(the row of a method; the completions of the images that are shown, of one half each)."""
    config, parts, spent = task.config, [], 0.0
    shown: dict[int, Tensor] = {}
    for index, (half, clamp) in enumerate(task.clamps.items()):
        with config.autocast():
            completed = complete(task, method, clamp, noise.step_seed(config.seed, index))
        parts.append(Part(half, evaluate(task, completed.samples, clamp), completed.log_prob))
        spent += completed.seconds
        shown |= {i: completed.samples[i] for i in range(index, config.shown, len(task.clamps))}
    row = {"method": method} | summary(parts)
    row["ms"] = 1000 * spent / (len(task.clamps) * len(task.x) * config.completions)
    in_nats = "" if row["nats"] is None else f", {row['nats']:.1f} nats"
    progress(f"{method}: agreement {row['agreement']:.3f}{in_nats}, {row['ms']:.2f} ms a completion")
    return row, [shown[i] for i in sorted(shown)]


@torch.no_grad()
def along_orders(task: Task, progress: Progress) -> Row:
    """-log P(free half | given half) of the any-conditional model, one pixel after the other.

    The spread is over orders.
    """
    config, model, parts, spreads = task.config, task.models.any_conditional, [], []
    assert model is not None
    for index, clamp in enumerate(task.clamps.values()):
        torch.manual_seed(noise.step_seed(config.seed, index))
        with config.autocast():
            orders = torch.stack([model.log_likelihood(task.x, None, clamp) for _ in range(config.orders)])
        parts.append(orders.mean(0))
        if config.orders > 1:
            spreads.append(float(orders.double().var(0).mean()))
    spread = fmean(spreads) ** 0.5 if spreads else None
    row = {"method": "any-conditional, pixel by pixel", **nats(parts), "spread": spread}
    progress(f"pixel by pixel: {row['nats']:.1f} nats")
    return row


def picture(task: Task, method: str, shown: list[Tensor], shape: tuple[int, int]) -> Figure | SubFigure:
    """A row for each image shown: original, given half, completions."""
    count, halves = len(shown), list(task.clamps.values())
    clamp = torch.stack([halves[i % len(halves)] for i in range(count)])
    labels = [f"{int(label)}" for label in task.y[:count]]
    completions = torch.stack(shown)
    return images.inpainting(task.x[:count], clamp, completions, shape=shape, labels=labels, title=method).figure
