"""A classifier's labels of samples and chains: which classes occur, how evenly, how often a chain changes class."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dither.metrics._chains import First, by_chain


class ClassEntropy(NamedTuple):
    """nats: of the classes' shares. relative: over log(classes), 1 if all are equally frequent, 0 if there is one."""

    nats: float
    relative: float


def class_histogram(labels: Tensor, classes: int) -> Tensor:
    """How often each class occurs, int64 (classes,), also those that never do.

    Shapes      labels of any shape, whole numbers from 0 to classes - 1.
    Raises      ValueError for other values or types, or no label at all.
    """
    return torch.bincount(_checked(labels, classes).flatten(), minlength=classes)


def class_entropy(labels: Tensor, classes: int) -> ClassEntropy:
    """Entropy of the classes' shares, -sum_c p_c log p_c: low for a sampler that lost modes.

    The share of a finite sample: on average (classes - 1) / (2 n) nats too low (Miller 1955). Report it of real labels
    too.
    Shapes      as `class_histogram`, classes >= 2.
    Raises      as `class_histogram`, and ValueError for classes < 2, of which no entropy is relative.
    """
    counts = class_histogram(labels, classes)
    if classes < 2:
        raise ValueError(f"classes is {classes}: an entropy relative to log(classes) needs at least 2")
    share = counts.double() / counts.sum()
    nats = float(-torch.special.xlogy(share, share).sum()) + 0.0  # + 0.0: no -0 for a single class
    return ClassEntropy(nats, nats / math.log(classes))


def class_switches(labels: Tensor, *, first: First | None = None) -> Tensor:
    """How often a chain changes class, per step.

    It is 0 for a chain that stays in its mode, 1 - 1 / classes for independent samples of equally frequent classes.
    Shapes      labels (chains, steps) whole numbers, steps >= 2  ->  (chains,) float64
    first       "chains" or "steps", which of them is the first dimension, as in `mixing`.
    Raises      ValueError where it is not said; for another shape or type.
    """
    _whole(labels)
    labels = by_chain(labels, first, "labels")
    if labels.dim() != 2 or 0 in labels.shape or labels.shape[1] < 2:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}, expected (chains, steps) with at least one chain and two steps: "
            "a single chain is labels.unsqueeze(0)"
        )
    return (labels[:, 1:] != labels[:, :-1]).double().mean(1)


def _whole(labels: Tensor) -> None:
    if not isinstance(labels, Tensor) or labels.dtype.is_floating_point or labels.is_complex():
        kind = str(labels.dtype) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels is {kind}, expected a tensor of whole numbers: probabilities need .argmax(-1) first")


def _checked(labels: Tensor, classes: int) -> Tensor:
    _whole(labels)
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise ValueError(f"classes is {classes!r}: a whole number of at least 1 is needed")
    if labels.numel() == 0:
        raise ValueError(f"labels has shape {tuple(labels.shape)}: at least one label is needed")
    labels = labels.detach().long()
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels reach from {low} to {high}, expected 0 to {classes - 1}: pass the number of all classes")
    return labels
