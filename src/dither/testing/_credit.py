"""Whether declared credit leaves out a term that a unit can change."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dither.estimators.core.closures import buffers_kept, modules_of
from dither.estimators.core.credit_report import CreditReport, NodeCredit
from dither.estimators.core.randomness import Randomness
from dither.estimators.core.site import checked_cost
from dither.estimators.core.sums import with_terms
from dither.nodes import Node, cost_alone, taken_over
from dither.noise import draw_seed
from dither.testing._unbiased import CheckFailed

_OTHERS = 8  # samples by other noise, of which one that differs is taken


def check_credit(estimator: Any, closure: Callable[[], Any], *, draws: int = 4) -> CreditReport:
    """Raise CheckFailed if a unit changes a term of the cost for which its credit does not let it answer.

    >>> import torch, dither
    >>> node, logits, weights = dither.Bernoulli(), torch.zeros(8, 3), torch.tensor([1.0, 2.0, 3.0])
    >>> estimator = dither.ScoreFunction(node, credit="aligned")
    >>> print(dither.testing.check_credit(estimator, lambda: node(logits) * weights))
    node (aligned): 3 units (3,), 3 terms
      unit t: term t
    >>> dither.testing.check_credit(estimator, lambda: node(logits).cumsum(1))  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    dither.testing._credit.CheckFailed: [credit] on node 'node': unit 0 changes term 1, for which ...

    The closure runs a few times: once for each unit of each node in each draw, with another sample of this unit in all examples
    and all else by the same noise. What they show is certain. What tracing finds besides may not be: it is a warning, which
    names the operation. Random numbers and buffers are afterwards what they were, and estimators as well.
    """
    report, closure = estimator.credit_report(closure), cost_alone(closure)
    with torch.no_grad():
        for _ in range(draws):
            _draw(estimator, partial(with_terms, closure) if estimator.split_sums else closure, report)
    for node in report.nodes.values():
        unproved = (node.traced & ~node.influence).nonzero().tolist()
        if unproved:
            unit, term = unproved[0]
            warnings.warn(
                f"by tracing, {_place(node, unit)} of node '{node.name}' may reach term {term}, for which "
                f"credit={node.credit!r} does not let it answer; {draws} draws did not show it. "
                f"{_connection(node, unit, term)}: if no sample can pass there, the declaration is right",
                stacklevel=2,
            )
    return report


def _draw(estimator: Any, closure: Callable[[], Tensor], report: CreditReport) -> None:
    seeds = [torch.tensor(int(draw_seed()), dtype=torch.int64, device="cpu") for _ in range(1 + _OTHERS)]
    random = Randomness.now()

    def costs(call: int, unit: int) -> Tensor:
        run = _Changed(estimator.nodes, closure, seeds, call, unit)
        with random.repeated(0), buffers_kept([estimator.model, *modules_of(closure)]):
            return run.costs()

    before = costs(-1, 0)
    for number, node in enumerate(report.nodes.values()):
        for unit in range(len(node.influence)):
            changed = _differ(before, costs(number, unit)).any(0)
            wrong = (changed.cpu() & ~node.influence[unit]).nonzero().flatten().tolist()
            if wrong:
                raise CheckFailed("credit", f"node '{node.name}'", _message(node, unit, wrong[0]))


def _message(node: NodeCredit, unit: int, term: int) -> str:
    return (
        f"{_place(node, unit)} changes term {term}, for which credit={node.credit!r} does not let it answer: its gradient "
        f"would be wrong. {_connection(node, unit, term)}; declare what connects them, as by credit='causal', 'global' or a "
        "bool tensor (units, terms), or leave it to be 'traced'"
    )


def _connection(node: NodeCredit, unit: int, term: int) -> str:
    operation = node.operation(unit, term)
    return "Nothing was traced that connects them" if operation is None else f"The operation that connects them is {operation}"


def _place(node: NodeCredit, unit: int) -> str:
    if len(node.units) < 2:
        return f"unit {unit}"
    return f"unit {tuple(int(i) for i in np.unravel_index(unit, node.units))}"


def _differ(one: Tensor, other: Tensor) -> Tensor:
    """(batch, terms) bool: which differ, by more than rounding."""
    a, b = one.double(), other.double()
    tolerance = torch.finfo(one.dtype).eps ** (2 / 3) * (a.abs() + b.abs() + a.abs().mean(0))
    return ~((a - b).abs() <= tolerance)


class _Changed:
    """A run by the noise of the first seed, in which one unit of one call has another sample, by that of a later one."""

    def __init__(
        self, nodes: dict[str, Node], closure: Callable[[], Tensor], seeds: list[Tensor], call: int, unit: int
    ) -> None:
        self.nodes, self.closure, self.seeds, self.call, self.unit = nodes, closure, seeds, call, unit
        self.calls = self.discrete = 0
        self.first: Tensor | None = None

    def costs(self) -> Tensor:
        with taken_over(self.nodes.values(), handler=self._output, only="a look at credit"):
            return checked_cost(self.closure()).detach()

    def _output(self, node: Node, logits: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            self.calls += 1
            noises = (node.keyed(logits, seed, self.calls - 1).draw(logits) for seed in self.seeds)
            if not node.discrete:
                return node.propagate(logits, next(noises))
            self.discrete += 1
            sample = node.sample(logits, next(noises))
            if self.discrete - 1 == self.call:
                for noise in noises:
                    sample = self._with_another(node, logits, sample, node.sample(logits, noise))
            return node.output(logits, sample)

    def _with_another(self, node: Node, logits: Tensor, sample: Tensor, other: Tensor) -> Tensor:
        """The sample with the unit of the other one, in those examples in which nothing has changed yet."""
        units = len(node.unit_shape(tuple(logits.shape[1:])))
        mine = torch.zeros(sample.shape[1 : units + 1], dtype=torch.bool, device=sample.device)
        mine.view(-1)[self.unit] = True
        mine = mine.view(1, *mine.shape, *[1] * (sample.dim() - units - 1))
        self.first = sample if self.first is None else self.first
        still = (sample == self.first).flatten(1).all(1).view(-1, *[1] * (sample.dim() - 1))
        return torch.where(mine & still, other, sample)
