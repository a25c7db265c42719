"""Which units answer for which terms of a cost, and which operation made them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dither.estimators.core.call import FORESEEN
from dither.estimators.core.closures import buffers_kept, modules_of
from dither.estimators.core.credit import credit_of, declare, named
from dither.estimators.core.execution import Execution
from dither.estimators.core.randomness import Randomness
from dither.estimators.core.site import Site
from dither.estimators.core.trace import Traced, trace
from dither.estimators.core.tracing.notes import Notes
from dither.nodes import cost_alone


@dataclass(frozen=True)
class NodeCredit:
    """The credit of one call of a node.

    credit: as it was declared, "given" for a tensor. units: their shape. influence: (units, terms) bool, what is credited.
    traced: the same, as tracing finds it. reason: the operation that tracing could not follow, if there is one.
    """

    name: str
    credit: str
    units: tuple[int, ...]
    influence: Tensor
    traced: Tensor
    reason: str | None = None
    _notes: Notes = field(default_factory=Notes, repr=False)
    _start: int | None = field(default=None, repr=False)
    _everyone: Tensor | None = field(default=None, repr=False)

    def operation(self, unit: int, term: int) -> str | None:
        """The operation that connects a unit with a term, as far as tracing tells: the first that brings the unit together with
        one that answers for fewer terms, this among them; or else spreads it over all of its output."""
        if not bool(self.traced[unit, term]):
            return None
        if self.reason is not None:
            return self.reason
        if self._start is None or self._everyone is None:
            return None
        own, everyone = self._start + unit, self._everyone
        others = [u for u in everyone[:, term].nonzero().flatten().tolist() if u != own]
        for other in sorted(others, key=lambda u: (int(everyone[u].sum()), abs(u - own)))[:4]:
            if (found := self._notes.meeting(own, other)) is not None:
                return found
        return self._notes.spread(own)

    def lines(self) -> Iterator[str]:
        units, terms = self.influence.shape
        yield f"{self.name} ({self.credit}): {units} unit{'s' * (units != 1)} {self.units}, {terms} term{'s' * (terms != 1)}"
        if (pattern := _pattern(self.influence)) is not None:
            by = self.operation(0, terms - 1) if self.credit == "traced" and "later" in pattern else None
            yield f"  {pattern}" + (f", by {by}" if by else "")
            return
        for first, last in _alike(self.influence):
            credited = self.influence[first].nonzero().flatten().tolist()
            text = "all" if len(credited) == terms else _ranges(credited) if credited else "none"
            shown = bool(credited) and self.credit == "traced"
            by = self.operation(first, _farthest(credited, first, units, terms)) if shown else None
            what = f"unit {first}" if first == last else f"units {first}-{last}"
            yield f"  {what}: term{'s' * (len(credited) != 1)} {text}" + (f", by {by}" if by else "")


@dataclass(frozen=True)
class CreditReport:
    """The credit of all calls of discrete nodes, by their names: `report["gate"].influence`; `print(report)` shows it."""

    nodes: dict[str, NodeCredit]

    def __getitem__(self, name: str) -> NodeCredit:
        return self.nodes[name]

    def __str__(self) -> str:
        return "\n".join(line for node in self.nodes.values() for line in node.lines())


def report(estimator: Any, closure: Callable[[], Any]) -> CreditReport:
    """Of one run of the closure. Random numbers and buffers are afterwards what they were."""
    if not estimator.local_credit:
        raise TypeError(
            f"{type(estimator).__name__} credits no unit with single terms of a cost, so there is nothing to report: use "
            "ScoreFunction, DisARM or another that does"
        )
    reading, closure = estimator.reading, cost_alone(closure)
    with Randomness.now().repeated(0), estimator.frozen(), buffers_kept([estimator.model, *modules_of(closure)]):
        execution = Execution(estimator, closure, estimator.layout if estimator.runs_depend_on_layout else FORESEEN)
        execution.watching = True
        costs, sites = execution.runs()
        notes, terms = Notes(), costs.shape[-1]
        result = trace(execution, sites, terms, 0, execution.watches[0], notes)
    estimator.reading = reading
    credits = [estimator.credits_of(site.node) for site in sites]
    for site, influence in zip(sites, result.influences, strict=True):
        site.influence = influence
    declare(sites, credits, terms)
    names = [named(credit_of(own, site.name)) for own, site in zip(credits, sites, strict=True)]
    return CreditReport({site.name: node for site, node in zip(sites, _nodes(sites, names, result, notes, terms), strict=True)})


def _nodes(sites: list[Site], names: list[str], result: Traced, notes: Notes, terms: int) -> Iterator[NodeCredit]:
    reason = None if result.reason is None else " ".join((result.reason[0], f"({result.reason[1]})")).removesuffix(" ()")
    single = result.widths is not None and all(n == math.prod(s.units) for n, s in zip(result.widths, sites, strict=True))
    everyone = torch.cat([part for part in result.influences if part is not None]) if single else None
    start = 0
    for site, name, own in zip(sites, names, result.influences, strict=True):
        units = math.prod(site.units)
        everything = torch.ones(units, terms, dtype=torch.bool, device="cpu")
        influence = everything if site.influence is None else site.influence.cpu()
        traced = everything if own is None else own
        yield NodeCredit(site.name, name, site.units, influence, traced, reason, notes, start if single else None, everyone)
        start += units


def _pattern(influence: Tensor) -> str | None:
    """What is said in one line: aligned or causal credit, t the place of a unit in the first dimension."""
    units, terms = influence.shape
    if terms < 2 or units % terms:
        return None
    at = torch.arange(terms, device="cpu", dtype=torch.int64).repeat_interleave(units // terms).view(-1, 1)
    term = torch.arange(terms, device="cpu", dtype=torch.int64)
    what = "unit t" if units == terms else f"units t ({units // terms} each)"
    if torch.equal(influence, term == at):
        return f"{what}: term t"
    return f"{what}: term t and all later ones" if torch.equal(influence, term >= at) else None


def _alike(influence: Tensor) -> Iterator[tuple[int, int]]:
    """Runs of units that answer for the same terms, as (first, last)."""
    first = 0
    for unit in range(1, len(influence) + 1):
        if unit == len(influence) or not torch.equal(influence[unit], influence[first]):
            yield first, unit - 1
            first = unit


def _farthest(found: list[int], unit: int, units: int, terms: int) -> int:
    """Of the terms the one that is farthest from the unit's own place."""
    return max(found, key=lambda term: abs(term - unit * terms // units))


def _ranges(numbers: list[int]) -> str:
    parts, start = [], 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            parts.append(_range(numbers[start], numbers[i - 1]))
            start = i
    return ", ".join(parts)


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
