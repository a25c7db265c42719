"""Half of an image given, the other half asked for: clamped chains beside one network for any question, and floors.

The left, right, top or bottom half of thresholded test digits is clamped, and completed several times by every method. A
stored classifier says whether a completion is the digit it was. All methods see the training and the validation part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

METHODS = ("chain", "chain-from-data", "chain-levels", "question", "question-passes", "nearest", "random")
# Where the options say None.
SIZES: dict[str, dict[str, Any]] = {
    "mnist": {
        "gsn_width": 1500,
        "gsn_epochs": 100,
        "levels_epochs": 20,
        "question_widths": (1000, 1000),
        "question_epochs": 12,
    },
    "digits": {
        "gsn_width": 200,
        "gsn_epochs": 100,
        "levels_epochs": 60,
        "question_widths": (300, 300),
        "question_epochs": 100,
    },
}


@dataclass(frozen=True)
class Config:
    """Completions of half-given digits: clamped GSN chains, one network for any question, nearest neighbours, chance."""

    data: str = "mnist"
    """mnist, or digits, which takes a minute"""
    methods: tuple[str, ...] = METHODS
    """chain: a GSN's, clamped, from random pixels; chain-from-data: from the pixels of a random training image; chain-levels:
    that of a denoising auto-encoder with several strengths of noise and several modes, from random pixels; question: one
    network for any question, all pixels at once; question-passes: in groups, each given those before; nearest: halves of the
    training images nearest in the given half; random: of any training images"""
    images: int = 200
    """test images, the first"""
    completions: int = 10
    """of every image and half"""
    gsn_run: Path | None = None
    """run folder of a trained denoising model, such as runs/gsn-mnist/gsn-2-0; its newest checkpoint is taken. None: a GSN-2 is
    trained on the thresholded images"""
    gsn_width: int | None = None
    """1500 for mnist, 200 for digits"""
    gsn_epochs: int | None = None
    """100"""
    levels_run: Path | None = None
    """likewise for chain-levels, such as runs/gsn-mnist/dae-levels-0. None: one is trained on the thresholded images"""
    levels_epochs: int | None = None
    """20 for mnist, 60 for digits"""
    burn_in: int = 100
    """steps of a chain to its completion"""
    states: int = 25
    """further steps of each chain, over which P(free half | state) is averaged"""
    question_widths: tuple[int, ...] | None = None
    """of hidden layers: 1000 1000 for mnist, 300 300 for digits"""
    question_epochs: int | None = None
    """12 for mnist, 100 for digits"""
    lr: float = 1e-3
    """of the network for any question, by Adam; it falls linearly to zero"""
    passes: int = 32
    """groups of question-passes"""
    orders: int = 2
    """random orders, one pixel after the other, in which log P(free half) is taken too; 0: none"""
    batch_size: int = 100
    precision: str = "float32"
    """of products: float32, or bfloat16 with float32 parameters"""
    shown: int = 8
    """images in the pictures"""
    seed: int = 0
    threads: int = 1
    data_dir: Path | None = None


def run(config: Config, folder: Path, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """{"rows": a row per method and reference, "figures": a picture per method}; trainings are run folders below `folder`.

    Rows: agreement (share of completions that the classifier gives the image's label, with the standard error over images,
    and by given half), labels (distinct ones among the completions of one image), distance (mean share of free pixels in
    which two of them differ), error (share in which one differs from the image), white (share of completions whose free
    pixels are mostly on, which is what digits are not), nats (-log P(free half | given half), with the standard error over
    images), spread (its standard deviation over orders), ms (of one completion, in a batch of all).
    """
    import torch

    from dither import data, metrics
    from dither.experiments import _inpainting, _inpainting_models
    from dither.models import masks

    config = completed(config)
    torch.set_num_threads(config.threads)
    dataset = data.load(config.data, config.data_dir)
    train = (torch.cat((dataset.train.x, dataset.valid.x)) > 0.5).float()
    models, seconds = _inpainting_models.trained(config, train, folder, progress)
    x, y = (dataset.test.x[: config.images] > 0.5).float(), dataset.test.y[: config.images]
    classify = metrics.feature_net(config.data).classify
    height, width = dataset.shape[1:]
    task = _inpainting.Task(config, train, x, y, classify, masks.halves((height, width)), models)
    found = [task.measured(method, progress) for method in config.methods]
    rows = [task.original(), task.given(), *[row for row, _ in found]]
    if config.orders and "question" in models:
        rows.append(task.along_orders(progress))
    figures = [
        (method, task.picture(method, shown, (height, width))) for method, (_, shown) in zip(config.methods, found, strict=True)
    ]
    rows = [dict.fromkeys((*rows[0], "spread", "ms")) | row for row in rows]
    return {"rows": rows, "figures": figures, "seconds": seconds + task.seconds}


def completed(config: Config) -> Config:
    """With the sizes of its data where it says None. Raises ValueError for what makes no sense."""
    if config.data not in SIZES:
        raise ValueError(f"data is {config.data!r}: there is a classifier for {' and '.join(SIZES)}; choose one of these")
    if unknown := sorted(set(config.methods) - set(METHODS)):
        raise ValueError(f"there is no method {unknown[0]!r}; choose among {', '.join(METHODS)}")
    if config.completions < 2 or config.images < 2 or not 1 <= config.shown <= config.images:
        raise ValueError(
            f"completions={config.completions}, images={config.images}, shown={config.shown}: at least 2 completions of 2 "
            "images are needed, and 1 to all of them shown"
        )
    return replace(config, **{k: v for k, v in SIZES[config.data].items() if getattr(config, k) is None})
