"""What an oracle must know of an estimator beyond the nodes: how finely it looks at their noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dither.nodes import Node

Thresholds = Callable[[Any, Node, Tensor, int], Tensor | None]
Partition = Callable[[Any, Node, Tensor, int], tuple[Tensor, Tensor] | None]


def _none(*_: Any) -> None:
    return None


def _always(*_: Any) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """How `dither.exact` sums over the noise of an estimator that uses more of it than each node's sample. It stands beside
    the estimator, as its attribute `oracle`; nothing but `dither.exact` and `dither.testing` reads it.

    accuracy    of the expectation that is computed: less than that of sums where it takes quadrature.
    thresholds  (estimator, node, logits, stream) -> thresholds in (0, 1), (n, batch, *units), between which the estimator does
                not tell uniforms apart; None: the node's own partition will do. A stream is one of a call's noises: 0, or what
                the estimator draws besides.
    quadrature  nodes in [-1, 1], of equal weight, at which each interval between thresholds is evaluated; the middle alone,
                unless the estimator uses the value of the noise.
    partition   (estimator, node, logits, stream) -> (noise, log weight), as `Node.partition`, where it has one of its own.
    repeats     (estimator, call, stream) -> whether the thresholds of this request equal those of the earlier request of the
                same noise: then that noise is not divided once more.
    enumerates  whether it sums over outcomes itself.
    refusal     why nothing can be summed over its noise, and what to do instead; "" where it can be.
    """

    accuracy: float = 1e-10
    thresholds: Thresholds = _none
    quadrature: tuple[float, ...] = (0.0,)
    partition: Partition = _none
    repeats: Callable[[Any, Any, int], Tensor | bool] = _always
    enumerates: bool = False
    refusal: str = ""
