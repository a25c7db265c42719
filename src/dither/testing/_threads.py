"""Other threads at work on the nodes of a model, while an estimator runs its closure."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import torch
from torch import Tensor

from dither.exact import parameter_gradients
from dither.nodes import Bernoulli, deterministic
from dither.testing._subject import Subject, warm
from dither.testing._tiny import Tiny

_PATIENCE = 60.0  # seconds


class Company:
    """Three threads besides the present one. The first is in the midst of a call of such an estimator on the same model, begun
    before the present thread's; it ends after it, or, if it leaves early, within it, at `work`. The second evaluates in
    `deterministic("mean")`, the third samples, whenever `work` is called.

    On leaving, the first thread's gradient must be that of a call by itself.
    """

    def __init__(self, subject: Subject, model: Tiny, leaves_early: bool) -> None:
        self.model, self.leaves_early = model, leaves_early
        self.begun, self.end = Event(), Event()
        self.end.set()
        self.estimators = [subject.build(model) for _ in range(2)]  # equal ones
        for estimator in self.estimators:
            warm(estimator, model.cost)
            estimator.examples = "separate"  # what begins is the call, not a look before it
        self.threads = [ThreadPoolExecutor(1) for _ in range(3)]
        self.mean = deterministic("mean")

    def __enter__(self) -> Company:
        self.alone = self._gradient()
        self.begun.clear()
        self.end.clear()
        self.other = self.threads[0].submit(self._gradient)
        if not self.begun.wait(_PATIENCE):
            self.other.result(0)
        self.threads[1].submit(self.mean.__enter__).result(_PATIENCE)
        return self

    def _gradient(self) -> list[Tensor]:
        estimator = self.estimators.pop()

        def cost() -> Tensor:
            self.begun.set()
            if not self.end.wait(_PATIENCE):
                raise TimeoutError("nobody ended the other thread's call")
            return self.model.cost()

        torch.manual_seed(3)
        return list(parameter_gradients(estimator(cost), self.model.parameters()))

    def work(self) -> None:
        if self.leaves_early:
            self.end.set()
            self.other.result(_PATIENCE)
        self.threads[1].submit(self._evaluate).result(_PATIENCE)
        self.threads[2].submit(self._sample).result(_PATIENCE)

    def _evaluate(self) -> None:
        node, logits = self.model.layers[0], self.model.first
        if not torch.equal(node(logits), node.mean(logits)):
            raise AssertionError("in another thread, in `deterministic('mean')`, a node does not give its mean")

    def _sample(self) -> None:
        node, logits = self.model.layers[0], self.model.first
        if not node(logits).requires_grad:
            raise AssertionError("in another thread a node does not back-propagate by its own sampler")
        Bernoulli()(torch.zeros(1, 1, dtype=torch.float64, device="cpu"))  # of no estimator's model

    def __exit__(self, *error: object) -> None:
        self.end.set()
        try:
            self.threads[1].submit(self.mean.__exit__, None, None, None).result(_PATIENCE)
            gradient = self.other.result(_PATIENCE)
            if error[0] is None and not all(torch.equal(a, b) for a, b in zip(gradient, self.alone, strict=True)):
                raise AssertionError(f"another thread's gradient is {gradient}, by itself it is {self.alone}")
        finally:
            for thread in self.threads:
                thread.shutdown()
