"""All runs of the closure in one call of an estimator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dither import noise
from dither.estimators.core.auxiliary import Aux, WithAux, of_all_runs
from dither.estimators.core.call import Layout
from dither.estimators.core.loop import CallId, Finished, in_groups, layout_of, lined, united
from dither.estimators.core.mappable import Failure
from dither.estimators.core.nesting import refuse_shared
from dither.estimators.core.randomness import Randomness
from dither.estimators.core.reads import Reads, values_are_there
from dither.estimators.core.repeated import CheckedRows, RepeatedRun, require_independent
from dither.estimators.core.run import Plan, Run
from dither.estimators.core.site import Closure, Site
from dither.estimators.core.structure import Watch
from dither.estimators.core.vectorized import vectorized
from dither.nodes import eagerly, is_concrete


class Execution:
    """All runs of the closure in one call of an estimator."""

    def __init__(
        self, plan: Plan, closure: Closure, layout: Layout, run_type: type[Run] = Run, seed: Tensor | None = None
    ) -> None:
        self.plan, self.closure, self.layout, self.run_type = plan, closure, layout, run_type
        refuse_shared(type(plan).__name__, plan.nodes)
        self.seed, self.differentiating = noise.draw_seed() if seed is None else seed, torch.is_grad_enabled()
        self.watching = False
        self.structures: list[Any] = []  # of each run, or of all in one vmap
        self.watches: list[Watch | None] = []
        self.random = Randomness()
        self.aux: Aux | None = None  # of the last run, or of all in one vmap

    def run(self, index: Tensor, run_type: type[Run] | None = None, layout: Layout | None = None) -> Run:
        layout = self.layout if layout is None else layout
        return (run_type or self.run_type)(self.plan, index, self.seed, layout, self.differentiating)

    def runs(self) -> tuple[Tensor, list[Site]]:
        """Costs (runs, batch, terms) and the sites, for all runs that the plan has for the layout."""
        self.plan.reading = False
        count, finished = self.plan.runs(self.layout), []
        self.structures, self.watches, self.random = [], [], Randomness()

        def once(index: Tensor, layout: Layout | None = None, reads: Reads | None = None) -> Any:
            run = self.run(index, layout=layout)
            finished.append(run)
            run.reads = reads
            if self.watching:
                run.watch = Watch()
                self.random.remember()
            outer, self.plan.handler.run = self.plan.handler.run, run
            try:
                if self.plan.split_sums:  # sums are watched, which the compiler cannot follow
                    result = eagerly(run.over, self.closure, self.plan.handler)
                else:
                    result = run.over(self.closure, self.plan.handler)
                self.aux = self.closure.take() if isinstance(self.closure, WithAux) else None
                return *result, self.aux[0] if self.aux else []
            finally:
                self.plan.handler.run = outer
                self.structures.append(run.structure)
                self.watches.append(run.watch)
                if run.watch is not None:
                    run.watch.close()

        def forget() -> None:
            for left in (finished, self.structures, self.watches):
                left.clear()
            self.random, self.aux = Randomness(), None

        from_oracle = any(node._source is not None for node in self.plan.nodes.values())
        mapped, failure = None, None
        if self.plan.repeated and count > 1:
            *result, _ = eagerly(self._repeated, once) if self.plan.needs_sample_gradients else self._repeated(once)
            self._give([self.aux])
            return result[0], self._sites(finished, finished[-1].calls_by_name(), result[1:], shared=False)
        if self.plan.vectorize and count > 1 and not from_oracle:
            # vmap cannot enter compiled code (pytorch#128711): compiled parts, if there can be any, run eagerly here.
            mapped, failure = eagerly(self._vmapped, once, count, forget)
        if count == 1:
            cost, *parts, _ = once(torch.tensor(0, dtype=torch.int64, device="cpu"))
            self._give([self.aux])
            return self.of_one(finished[0], cost, parts)
        if mapped is not None:
            costs, *parts, aux = mapped
            if self.aux is not None:
                own = [self.plan.own_runs(tensor) for tensor in aux]
                own = [tensor.squeeze(0) if len(tensor) == 1 else tensor for tensor in own]
                self._give([(own, *self.aux[1:])])
        else:
            if self.plan.runs_differ_by_kind or self.plan.needs_sample_gradients:
                # In compiled code nobody sees what Python looks at, and no sample is a leaf of a graph.
                costs, sites = eagerly(self._looped, once, finished)
            else:
                costs, sites = self._looped(once, finished)
            if failure is not None:
                eagerly(failure.tell, type(self.plan).__name__, f"the {count} runs")
            return costs, sites
        return costs, self._sites(finished[-1:], finished[-1].calls_by_name(), parts)

    def of_one(self, run: Run, cost: Tensor, parts: list[list[Tensor]]) -> tuple[Tensor, list[Site]]:
        """Costs (1, batch, terms) and the sites of a single run, by what it left."""
        parts = [[tensor.unsqueeze(0) for tensor in part] for part in parts]
        return cost.unsqueeze(0), self._sites([run], run.calls_by_name(), parts)

    def _vmapped(self, once: Callable[[Tensor], Any], count: int, forget: Callable[[], None]) -> tuple[Any, Failure | None]:
        return self.plan.mappable.tried(self.plan, self.closure, lambda: vectorized(once, count), forget)

    def _repeated(self, once: Callable[[Tensor], Any]) -> Any:
        require_independent(self.plan)
        self.run_type = RepeatedRun if self.plan.mappable.knows_rows(self.plan, self.closure) else CheckedRows
        return once(torch.tensor(0, dtype=torch.int64, device="cpu"))

    def _looped(self, once: Callable[..., Any], finished: list[Run]) -> tuple[Tensor, list[Site]]:
        plan, random = self.plan, Randomness()

        def make(number: int, layout: Layout) -> Finished:
            index = torch.tensor(number, dtype=torch.int64, device="cpu")
            if finished:
                with random.repeated(0):  # as in a vmap, where what the closure draws itself is drawn once
                    result = once(index, layout)
            else:
                random.remember()
                result = once(index, layout, reads := self._reads())
                plan.reading = reads is not None and reads.found
            cost, logits, samples, gradients, _ = result
            return Finished(cost, finished[-1].calls_by_name(), logits, samples, gradients, self.aux)

        if plan.runs_depend_on_layout:
            runs, calls = united(plan, in_groups(plan, make, self.layout))
            self.layout = layout_of(calls)
        else:
            runs, calls = [make(0, self.layout)], None
            runs += [make(number, self.layout) for number in range(1, plan.runs(self.layout))]
        if not finished[-1].lines_up(finished):  # the same runs, as ordinary ones; and all that follow
            self.run_type = plan.run_type = Run
            with random.repeated(0):
                return self.runs()
        if any(run.aux is not None for run in runs):
            own = self.plan.own_runs(torch.arange(len(runs), dtype=torch.int64, device="cpu"))
            self._give([runs[number].aux for number in own.tolist()])
        line = lined(runs, calls)
        return line.costs, self._sites(finished, line.calls, line.parts, line.present)

    def _give(self, aux: list[Aux | None]) -> None:
        """Hand out what the runs left besides their costs: of the net's own runs."""
        if any(run is not None for run in aux):
            assert isinstance(self.closure, WithAux)
            self.closure.give(of_all_runs(aux))

    def _reads(self) -> Reads | None:
        """What watches whether Python looks at samples, where it matters and where there are values to look at."""
        return Reads() if self.plan.runs_differ_by_kind and values_are_there() else None

    def _sites(
        self,
        runs: list[Run],
        calls: list[CallId],
        parts: list[list[Tensor]],
        present: list[Tensor | None] | None = None,
        shared: bool = True,
    ) -> list[Site]:
        require_called(any(run.calls > 0 for run in runs), self.plan)
        logits, samples, gradients = parts
        gradients = gradients or [None] * len(calls)  # type: ignore[list-item]
        sites = []
        for i, (call, a, h, g) in enumerate(zip(calls, logits, samples, gradients, strict=True)):
            here = present[i] if present else None
            rows, of = (None, None) if call.rows is None else (call.rows.index, call.rows.batch)
            sites.append(Site(call.name, call.node, a, h, g, i, len(calls), present=here, rows=rows, rows_of=of))
        if len(runs) == 1 and present is None and shared:
            for site, record in zip(sites, runs[0].records, strict=True):
                site.shared = record.logits if is_concrete(record.logits) else None
        return runs[-1].sites(sites)


def require_called(called: bool, plan: Plan) -> None:
    if not called:
        raise ValueError(
            f"the closure called none of the nodes of the model that {type(plan).__name__} was built on "
            f"({', '.join(plan.nodes)}): build the estimator on the model that the closure runs, and call it outside "
            "dither.deterministic"
        )
