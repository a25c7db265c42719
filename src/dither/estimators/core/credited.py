"""Which terms of a cost the units of a node answer for: declared, traced, told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dither.estimators.core.credit import Credits, checked, traced
from dither.estimators.core.credit_report import CreditReport, report
from dither.estimators.core.method import Method
from dither.nodes import Node


class Credited(Method):
    """A method whose credit may be declared."""

    _credit: Credits = "traced"
    _traces = True

    @property
    def credit(self) -> Credits:
        """Which terms of a cost (batch, terms) a unit answers for. "traced" (the default): those that it can reach, found by
        following the closure. "global": all. "aligned": unit t answers for term t, "causal": for t and all later ones; t is
        the place in the first dimension of units, (batch, time, units), or the number of the call of a node that is called once
        for each term. A bool tensor (units, terms). Or a dict of these by names or patterns of nodes. What is declared is not
        traced, and not looked at: `testing.check_credit` does."""
        return self._credit

    @credit.setter
    def credit(self, credit: Credits) -> None:
        if not self.local_credit:
            raise TypeError(
                f"{type(self).__name__} has no credit to declare, as it credits no unit with single terms of a cost: use "
                "ScoreFunction, DisARM or another that does"
            )
        self._credit = checked(credit, self.nodes)
        self._traces = traced(self._credit, [name for name, node in self.nodes.items() if node.discrete])

    def credits_of(self, node: Node) -> Credits:
        """What was declared of a node's credit."""
        return self._credit

    @property
    def traces(self) -> bool:
        """Whether some node's credit is to be traced."""
        return self.local_credit and self._traces

    def credit_report(self, closure: Callable[[], Any]) -> CreditReport:
        """Which units answer for which terms of the closure's cost, and which operation made them. Runs it a few times."""
        return report(self, closure)
