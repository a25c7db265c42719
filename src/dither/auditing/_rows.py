"""The rows of an audit, and what it is asked about: types and columns that its modules share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dither.estimators import Estimator

Closure = Callable[[], Tensor]
Build = Callable[[nn.Module], Estimator]
Row = dict[str, Any]  # JSON: "estimator", "parameter", COLUMNS, and more

COLUMNS = {
    "bias": "norm of the bias",
    "bias_se": "what a bias must exceed to be told from none",
    "variance": "total variance of one draw",
    "mse": "bias^2 + variance",
    "cosine": "mean cosine of a draw with the reference",
    "snr": "|mean|^2 / variance",
    "evaluations": "of the closure, per draw",
    "milliseconds": "per draw, median",
    "efficiency": "1 / (mse x milliseconds)",
}
