"""The command line of `dither audit`: what the verb, its subject and its files all read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from dither.cli.setup import ESTIMATORS

DEFAULT = (
    "straight-through:identity",
    "straight-through",
    "score-function",
    "score-function:mean",
    "score-function:optimal",
    "score-function:leave-one-out",
)


@dataclass(frozen=True)
class Command:
    """Measure the bias and the variance of gradient estimators, and recommend one.

    On a run: its newest weights and one batch of its validation data; writes RUN/audit.json, RUN/report.html and
    RUN/figures/audit. On your own model: MODULE:FUNCTION returns (model, closure) or (model, closure,
    {name: estimator}).
    """

    target: Positional[Annotated[str, arg(metavar="RUN|MODULE:FUNCTION")]]
    """A run folder, or a function to import."""
    estimators: Annotated[
        tuple[str, ...], arg(help=f"Which estimators to compare; all: every one that the model allows. {ESTIMATORS}")
    ] = DEFAULT
    checkpoints: Annotated[tuple[str, ...], arg(metavar="newest|all|STEP [STEP ...]")] = ("newest",)
    """Which of a run's checkpoints to audit; several show how bias and variance change during training."""
    samples: int = 4
    """Samples per example, for every estimator."""
    draws: int = 200
    """Gradient estimates per estimator."""
    warmup: int = 100
    """Calls of each estimator before its first draw, for its moving averages and what it learns by gradients."""
    batch_size: int = 32
    """Examples in the batch, of a run's validation part."""
    seed: int = 0
    """Governs all noise."""
    out: Path | None = None
    """Folder for audit.json, report.html and figures/; default RUN, and none for a function."""
    json: bool = False
    """One JSON object a line on stdout: a row per estimator and parameter, at last the recommendation."""
    quiet: bool = False
    """No progress and no hints on stderr."""
