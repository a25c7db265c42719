"""One run of a closure, made once more to see which units reach which terms of the cost."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dither.estimators.core.closures import buffers_kept, modules_of
from dither.estimators.core.execution import Execution
from dither.estimators.core.run import Run
from dither.estimators.core.site import Site
from dither.estimators.core.structure import Watch, address
from dither.estimators.core.tracing.guarded import Guard, guarding
from dither.estimators.core.tracing.notes import Notes
from dither.estimators.core.tracing.saved import Saved
from dither.estimators.core.tracing.taint import Taint
from dither.estimators.core.versions import version
from dither.nodes import Node, taken_over

MAX_UNITS = 1024  # beyond it the units of a node are traced as one

Influences = list[Tensor | None]  # of each site, (units, terms) bool; None: every unit on every term


@dataclass
class Traced:
    """structure: what the traced run did. unseen: a part of it was out of sight, so another run with this structure need not
    have these influences. consulted: the places, among the leaves, of those whose values decided."""

    influences: Influences
    structure: Any
    unseen: bool = False
    consulted: tuple[int, ...] = ()
    widths: list[int] | None = None  # how many sources each site had
    reason: tuple[str, str] | None = None  # the operation that could not be followed, and where


def trace(
    execution: Execution, sites: list[Site], terms: int, index: int, first: Watch | None, notes: Notes | None = None
) -> Traced:
    """Make run `index` once more. first: what was seen of it before; if it was not watched, it is made twice more. notes: take
    down what each operation did.

    Buffers are afterwards as the run had left them."""
    with buffers_kept([execution.plan.model, *modules_of(execution.closure)]):
        return _of_run(execution, sites, terms, index, first, notes)


def _of_run(
    execution: Execution, sites: list[Site], terms: int, index: int, first: Watch | None, notes: Notes | None
) -> Traced:
    if first is None:
        first = Watch()
        _repeat(execution, index, first, None)
    if first.structure() is None:
        return Traced([None] * len(sites), None)
    units = [math.prod(site.units) for site in sites]
    traced = _traced(execution, sites, terms, index, first, units, notes) if sum(units) <= MAX_UNITS else None
    whole = [1] * len(units)
    return traced or _traced(execution, sites, terms, index, first, whole, notes) or Traced([None] * len(sites), None)


def _traced(
    execution: Execution,
    sites: list[Site],
    terms: int,
    index: int,
    first: Watch,
    widths: list[int],
    notes: Notes | None,
) -> Traced | None:
    """widths: how many kinds of taint each site has. None: as many take too much memory."""
    unknown: Influences = [None] * len(sites)
    before = {a for leaf in first.leaves if (a := address(leaf)) is not None}
    versions = [version(leaf) for leaf in first.leaves]
    saved = Saved()
    taint, watch = Taint(sum(widths), before, notes), Watch(first.places)
    with saved.dropped():
        reached = _repeat(execution, index, watch, _Sources(taint, sites, widths))
    if saved.missed or reached is None:  # the closure computes gradients itself
        taint, watch = Taint(sum(widths), before, notes), Watch(first.places)
        reached = _repeat(execution, index, watch, _Sources(taint, sites, widths))
    if taint.too_large:
        return None
    changed = {address(leaf) for leaf, old in zip(first.leaves, versions, strict=True) if version(leaf) != old}
    elsewhere = not changed <= taint.written  # as by another thread
    if reached is None or reached.shape[1] != terms or taint.leaked or elsewhere:
        return Traced(unknown, watch.structure(), reason=taint.reason)
    consulted = taint.origins.consulted
    unseen = taint.origins.hidden or any(address(leaf) not in before | taint.of_data for leaf in watch.leaves)
    parts = zip(reached.split(widths), sites, strict=True)
    influences: Influences = [part.expand(math.prod(site.units), -1) for part, site in parts]
    places = tuple(i for i, leaf in enumerate(first.leaves) if address(leaf) in consulted)
    return Traced(influences, watch.structure(), unseen or bool(consulted & taint.written), places, widths)


class _Sources:
    """What the nodes' samples are tainted by: each unit of each site by itself, or by its site."""

    def __init__(self, taint: Taint, sites: list[Site], widths: list[int]) -> None:
        self.taint, self.sites, self.widths, self.count = taint, sites, widths, 0
        self.guard = Guard(self._used_elsewhere)

    def _used_elsewhere(self) -> None:
        self.taint.leak("another thread")

    def mark(self, output: Tensor, logits: Tensor, node: Node, sampled: bool) -> Tensor:
        own, units = range(0), ()
        if sampled:
            start = sum(self.widths[: self.count])
            own, units = range(start, start + self.widths[self.count]), self.sites[self.count].units
            self.count += 1
        self.taint.mark(output, logits, own, node.elementwise, units)
        return self.guard.watch(output)

    def reach(self, cost: Tensor) -> Tensor | None:
        """(sources, terms) bool; None if other samples were taken than in the first run."""
        if self.count != len(self.sites):
            return None
        self.taint.meet([cost])
        mask = self.taint.of(cost)
        if mask is None:
            return torch.zeros(sum(self.widths), cost.shape[1], dtype=torch.bool, device="cpu")
        return mask.any(1).expand(-1, cost.shape[1])


def _repeat(execution: Execution, index: int, watch: Watch, sources: _Sources | None) -> Tensor | None:
    """Run `index` with the same samples and random numbers: which of the sources reach which terms. None if it raised: the
    run itself went well, so what cannot be repeated is not followed."""
    # ordinary operations, whatever the estimator makes of them
    run = execution.run(torch.tensor(index, dtype=torch.int64, device="cpu"), Run)
    run.watch, run.differentiating = watch, False

    def handler(node: Node, logits: Tensor) -> Tensor:
        with sources.taint.paused() if sources else torch._C.DisableTorchFunction():
            before = len(run.records)
            output = run.on_node(node, logits)
            if output.untyped_storage().data_ptr() == logits.untyped_storage().data_ptr():
                output = output.clone()
            if sources:
                output = sources.mark(output, logits, node, len(run.records) > before)
        watch.note("node", (logits,), {}, output)
        return output

    try:
        with ExitStack() as stack:
            stack.enter_context(execution.random.repeated(index))
            stack.enter_context(torch.set_grad_enabled(execution.differentiating))  # what asks for gradients gets them
            # an oracle must not count these samples
            stack.enter_context(taken_over(execution.plan.nodes.values(), source=None))
            if sources:
                stack.enter_context(guarding(sources.guard))
                stack.enter_context(sources.taint.leaks)
                stack.enter_context(sources.taint)
            cost, *_ = run.over(execution.closure, handler)
            if sources is None:
                return None
            with sources.taint.paused():
                return sources.reach(cost)
    except Exception:
        return None
