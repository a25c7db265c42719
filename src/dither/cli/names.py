"""Strings become objects here and in `dither.methods`, nowhere else. Read by `--help`: nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from dither import methods
from dither.cli.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from dither.estimators import Estimator

ModelName = Literal["mlp"]
DataName = Literal["digits", "mnist", "fashion_mnist"]


def build(method: str, model: nn.Module, samples: int, note: Callable[[str], Any] | None = None) -> Estimator:
    """The estimator spelled `method` on the model, with at least the samples that it needs; `note` is told of more.

    Raises UsageError for a spelling that means nothing, and for a model with nodes that it does not take.
    """
    check(method)
    enough = methods.enough_samples(method, samples)
    if note and samples != enough and "samples=" not in method:
        note(f"{method} compares samples: it gets {enough} instead of {samples}")
    try:
        return methods.build(method, model, samples=samples)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{method}: {error}") from error


def check(method: str, flag: str = "--estimator") -> None:
    """Refuses a spelling that means nothing."""
    try:
        methods.parse(method)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error


def _mlp(features: int, hidden: tuple[int, ...], classes: int, gain: float) -> nn.Module:
    from dither.models.mlp import StochasticMLP

    return StochasticMLP((features, *hidden, classes), gain=gain)


# name -> (features, hidden, classes, gain) -> model
MODELS: dict[ModelName, Callable[[int, tuple[int, ...], int, float], Any]] = {"mlp": _mlp}
