"""What completions are worth: the metrics of each image, and rows of their means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dither.experiments.inpainting.completions import Task
from dither.tables import Row

METRICS = ("agreement", "labels", "distance", "error", "white")


@dataclass(frozen=True)
class Part:
    """Of one half: METRICS of each image, each (n,), and log P(free | clamped) (n,) or None."""

    half: str
    metrics: Mapping[str, Tensor]
    log_prob: Tensor | None = None


def evaluate(task: Task, samples: Tensor, clamp: Tensor) -> dict[str, Tensor]:
    """METRICS of each image (n,); samples (n, k, pixels)."""
    labels = task.classify(samples.flatten(0, 1)).view(samples.shape[:2])
    distinct = (
        torch.zeros(len(labels), int(labels.max()) + 1, dtype=torch.float32, device="cpu").scatter_(1, labels, 1.0).sum(1)
    )
    free = samples[:, :, ~clamp].double()
    # Two binary pixels of mean p differ with probability 2 p (1 - p): twice the variance, which is unbiased.
    distance = 2 * free.var(1).mean(1) if samples.shape[1] > 1 else free.new_zeros(len(free))
    error = (free - task.x[:, None, ~clamp]).abs().mean((1, 2))
    agreement = (labels == task.y.unsqueeze(1)).double().mean(1)
    white = (free.mean(2) > 0.5).double().mean(1)
    return dict(zip(METRICS, (agreement, distinct, distance, error, white), strict=True))


def summary(parts: Sequence[Part]) -> Row:
    """Means over images and halves; standard errors over images, of which the halves are no independent ones."""
    of = {key: torch.stack([part.metrics[key] for part in parts]).mean(0) for key in METRICS}
    row: Row = {"agreement": float(of["agreement"].mean()), "agreement_error": standard_error(of["agreement"])}
    row |= {part.half: float(part.metrics["agreement"].mean()) for part in parts}
    row |= {key: float(of[key].mean()) for key in METRICS[1:]}
    return row | nats([part.log_prob for part in parts])


def references(task: Task) -> list[Row]:
    """Rows of no method.

    original: the images themselves, the classifier's own agreement with the labels.
    given half: the rest is 0, what the classifier knows without any completion.
    """
    images = {
        "original": {half: task.x for half in task.clamps},
        "given half": {half: task.x * clamp for half, clamp in task.clamps.items()},
    }
    return [
        {"method": name}
        | summary([Part(half, evaluate(task, x.unsqueeze(1), task.clamps[half])) for half, x in by_half.items()])
        for name, by_half in images.items()
    ]


def nats(log_probs: Sequence[Tensor | None]) -> Row:
    if any(part is None for part in log_probs):
        return {"nats": None, "nats_error": None}
    mean = -torch.stack([part.double() for part in log_probs if part is not None]).mean(0)
    return {"nats": float(mean.mean()), "nats_error": standard_error(mean)}


def standard_error(values: Tensor) -> float:
    return float(values.double().std()) / math.sqrt(len(values))
