"""Which terms of a cost can a unit influence? Known by tracing what the closure does, never by looking at gradients.

A gradient of zero does not prove that nothing depends on a unit: a cost may compare, round or take an argmax. So a run of the
closure is made once more, with the same samples and the same random numbers, and every unit's taint is followed through it
(`trace`, `taint`). Where it cannot be followed, or where the second run did something else than the first, every unit is
credited with every term. Credit is thus never lost, and the score function stays unbiased.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dither.estimators.core.closures import buffers_kept, modules_of
from dither.estimators.core.execution import Execution
from dither.estimators.core.randomness import Randomness
from dither.estimators.core.site import Site
from dither.estimators.core.structure import Watch, contents
from dither.estimators.core.trace import Influences, trace

MAX_KNOWN = 256  # structures


class Locality:
    """The influences of an estimator's units on the terms of its cost, by what the runs of its closure did (`structure`).

    Every call is watched; one that does what an earlier one did has its influences. Another is run once more, with the same
    samples and the same random numbers of torch, numpy and Python, and traced. If it then does something else, nothing is
    known of its connections, and every unit is credited with every term, also the next time.

    static: set it to True (`estimator.locality.static = True`) for a closure that connects the same samples with the same
    terms in every call: it is traced once for its shapes and not watched. What torch.compile has compiled is credited as a
    whole, unless the closure is declared static.
    """

    def __init__(self, static: bool = False) -> None:
        self._known: dict[Any, Known] = {}
        self.several: bool | None = None  # whether the cost of the last call had several terms
        self.static = static

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_known": {}}  # of a copy, or in another process: traced anew

    @property
    def watches_next(self) -> bool:
        """Whether the next call is to be watched. A first one is, at the risk that it has one term; but not where there may be
        compiled code, which would be compiled anew for the call after it."""
        if self.static or torch.compiler.is_compiling():
            return False
        return "torch._dynamo" not in sys.modules if self.several is None else self.several

    def repeats(self, execution: Execution) -> AbstractContextManager[None] | None:
        """For a first call that is not watched, to be entered if it has several terms: within it, it is watched and made once
        more by the same random numbers, and changes no buffer. Later ones with one term before are credited as a whole."""
        if self.static or self.several is not None or execution.watching or torch.compiler.is_compiling():
            return None
        return _repeated(execution, Randomness.now())

    def forget(self) -> None:
        """Trace the closure anew at the next call."""
        self._known.clear()

    def mark(self, execution: Execution, sites: list[Site], terms: int) -> None:
        """Set `influence` of every site."""
        if torch.compiler.is_compiling() and not self.static:
            return
        shapes = (terms, tuple((site.name, site.units) for site in sites))
        influences = [self._of_run(execution, sites, shapes, index) for index in range(len(execution.structures))]
        for number, site in enumerate(sites):
            site.influence, site.local = _any([influence[number] for influence in influences]), True
            if site.influence is not None:
                site.influence = site.influence.to(site.sample.device)

    def _of_run(self, execution: Execution, sites: list[Site], shapes: Any, index: int) -> Influences:
        structure = "static" if self.static else execution.structures[index]
        if structure is None:
            return [None] * len(sites)
        watch = None if self.static else execution.watches[index]
        key = (shapes, structure)
        known = self._known.get(key)
        if known is not None and (influences := known.of(watch)) is not None:
            return influences
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        traced = trace(execution, sites, shapes[0], index, watch)
        if traced.structure != structure and not self.static:
            traced.influences, traced.unseen, traced.consulted = [None] * len(sites), False, ()
        if self.static:
            self._known[key] = Known((), {(): traced.influences})
        elif not traced.unseen:
            assert watch is not None
            if known is None or known.places != traced.consulted:
                known = self._known[key] = Known(traced.consulted, {})
            known.learn(watch, traced.influences)
        return traced.influences


@dataclass
class Known:
    """The influences of runs with one structure, by the values of those leaves that decided on them, such as masks."""

    places: tuple[int, ...]
    influences: dict[Any, Influences]

    def of(self, watch: Watch | None) -> Influences | None:
        return self.influences.get(self._values(watch))

    def learn(self, watch: Watch, influences: Influences) -> None:
        if len(self.influences) >= MAX_KNOWN:
            self.influences.clear()
        self.influences[self._values(watch)] = influences

    def _values(self, watch: Watch | None) -> Any:
        return () if watch is None else tuple(contents(watch.leaves[place]) for place in self.places)


@contextmanager
def _repeated(execution: Execution, before: Randomness) -> Iterator[None]:
    execution.watching = True
    with before.repeated(0), buffers_kept([execution.plan.model, *modules_of(execution.closure)]):
        yield


def _any(influences: Influences) -> Tensor | None:
    """A unit that can change a term in one run is credited with it in all."""
    known = [influence for influence in influences if influence is not None]
    return torch.stack(known).any(0) if known and len(known) == len(influences) else None
