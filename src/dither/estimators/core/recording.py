"""A run that the program makes itself, within a `with` block: its nodes' calls are recorded, and its cost comes later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dither import noise
from dither.estimators.core.call import FORESEEN
from dither.estimators.core.nesting import refuse_inner_losses, refuse_shared
from dither.estimators.core.run import Record, Recorded, Run
from dither.nodes import inner_losses, taken_over

_FIRST = torch.tensor(0, dtype=torch.int64, device="cpu")


class Recording:
    """One run, whose calls `run.records` has. Without gradients nothing could be learned from it."""

    def __init__(self, plan: Recorded) -> None:
        self.name = type(plan).__name__
        if not torch.is_grad_enabled():
            raise RuntimeError(
                f"a run under torch.no_grad() could not be learned from by {self.name}: to evaluate, call the model itself"
            )
        refuse_shared(self.name, plan.nodes)
        self.plan = plan
        self.run = Run(plan, _FIRST, noise.draw_seed(), FORESEEN, True)
        self.losses: list[tuple[str, Tensor]] = []

    @contextmanager
    def opened(self, done: Callable[[], Any] | None = None) -> Iterator[None]:
        """Within it the model's nodes are recorded. done: called at its end, unless it raised."""
        handler = self.plan.handler
        outer, handler.run = handler.run, self.run
        try:
            with taken_over(self.plan.nodes.values(), handler=handler, only=self.name):
                yield
                self.losses = list(inner_losses())
        finally:
            handler.run = outer
        if done is not None:
            done()

    def records(self) -> list[tuple[str, Record]]:
        """The calls that are to be credited, by name, for who credits every row of them by itself."""
        self.run.check_unchanged()
        for record in self.run.records:
            if record.rows is not None:
                raise ValueError(
                    f"{record.node.label} is called within dither.rows under {self.name}, where every environment decides in "
                    "every step: give it the logits of all"
                )
        calls = self.run.calls_by_name()
        return [(call.name, record) for call, record in zip(calls, self.run.records, strict=True)]

    def left(self, cost: Tensor) -> Any:
        """What the run leaves, (cost (batch, terms), logits, samples, sample gradients)."""
        refuse_inner_losses(cost, self.losses)
        return self.run.left(cost)


def require_one_run(estimator: Any) -> None:
    """Raise unless an estimator makes one run of a closure, and nothing else."""
    runs = estimator.runs(FORESEEN)
    if runs > 1 or estimator.runs_depend_on_layout or not estimator.records:
        many = "several runs" if not estimator.records or runs < 2 else f"{runs} runs"
        raise TypeError(
            f"{type(estimator).__name__} makes {many} of a closure: give it one, estimator(closure), or record the run of an "
            "estimator that needs one, such as ScoreFunction(model, baseline='optimal') or StraightThrough(model)"
        )
