"""The state of one call of an estimator: its runs of the closure, with the nodes taken over, and what each of them leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from dither import noise
from dither.estimators.core.call import Call, Layout
from dither.estimators.core.loop import CallId, Finished, in_groups, layout_of, lined, united
from dither.estimators.core.nesting import refuse_inner_losses, refuse_shared
from dither.estimators.core.randomness import Randomness
from dither.estimators.core.reads import Reads, values_are_there
from dither.estimators.core.sample_gradients import Graph, sample_gradients
from dither.estimators.core.site import Closure, Site, checked_cost
from dither.estimators.core.structure import Watch
from dither.estimators.core.sums import with_terms
from dither.estimators.core.transforms import depth, refuse_deeper
from dither.estimators.core.vectorized import vectorized
from dither.estimators.core.versions import shares_memory, version
from dither.nodes import ClosureError, Node, eagerly, is_concrete, noted, taken_over

FORESEEN: Layout = ((None, ()),)  # before the first call: one discrete node


class Plan(Protocol):
    """What an execution needs to know of its estimator."""

    model: nn.Module
    nodes: dict[str, Node]
    vectorize: bool
    split_sums: bool
    handler: Handler
    needs_sample_gradients: ClassVar[bool]
    run_type: type[Run]
    runs_depend_on_layout: ClassVar[bool]
    runs_differ_by_kind: ClassVar[bool]
    reading: bool

    @property
    def groups(self) -> int: ...

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]: ...

    def runs(self, layout: Layout) -> int: ...

    def starts(self, layout: Layout) -> list[int]: ...


@dataclass
class Record:
    """One call of a discrete node in a run."""

    node: Node
    logits: Tensor
    sample: Tensor
    output: Tensor | None = None


class Run:
    """One run of the closure; in a vmap over runs, all of them at once."""

    def __init__(self, plan: Plan, index: Tensor, seed: Tensor, layout: Layout, differentiating: bool) -> None:
        self.plan, self.index, self.seed, self.layout = plan, index, seed, layout
        self.differentiating = differentiating
        self.watch: Watch | None = None
        self.reads: Reads | None = None
        self.graph = Graph(index, plan.nodes.values(), plan.needs_sample_gradients)
        self.calls = 0
        self.records: list[Record] = []
        self.versions: list[tuple[Node, Tensor, int]] = []
        self.depth = depth()

    def on_node(self, node: Node, logits: Tensor) -> Tensor:
        """The output of a node's call, which is recorded if it is to be credited."""
        refuse_deeper(node, self.depth, type(self.plan).__name__)
        # What a checkpointed region keeps for its recomputation: a key, and nothing of the graph.
        key = (self.seed, self.calls, len(self.records), self.index, self.layout, self.graph)
        sample = noted(partial(_sample, self.plan.sample, node, key))
        if node._unseen != (unseen := self.differentiating and not torch.is_grad_enabled()):
            node._unseen = unseen  # nn.Module takes its time for it
        self.calls += 1
        output, credited = sample(logits)
        if credited is None:
            return output
        leaf = output if self.plan.needs_sample_gradients else None
        self.records.append(Record(node, logits, credited, leaf))
        self.versions.append((node, logits, version(logits)))
        # What the user changes in place may be neither the record nor the leaf of the sample gradients.
        return output.clone() if leaf is not None or shares_memory(output, credited) else output

    @property
    def structure(self) -> Any:
        """What the closure did, if it was watched and can be told; None else."""
        return None if self.watch is None else self.watch.structure()

    def check_unchanged(self) -> None:
        """Raise if the closure has changed in place what a node was given: credit is computed from it."""
        for node, logits, before in self.versions:
            if version(logits) != before:
                raise ClosureError(
                    f"the logits of {node.label} were changed in place after the node sampled from them (relu_, +=, index_put_ "
                    "...): credit would be computed from other logits; change a copy, or give the node one: node(a.clone())"
                )

    def call(self, node: Node, logits: Tensor) -> Call:
        """What the estimator is told of a node's call."""
        return Call(node, logits, self.seed, self.calls, len(self.records), self.index, self.layout, self.graph)

    def lines_up(self, runs: Sequence[Run]) -> bool:
        """Whether what it keeps of its calls can be put together with what the other runs keep of theirs."""
        return True

    def sites(self, sites: list[Site]) -> list[Site]:
        """The sites of all runs, of which this is the last, as the estimator keeps them."""
        return sites

    def calls_by_name(self) -> list[CallId]:
        """Which calls its records are of."""
        names = {node: name for name, node in self.plan.nodes.items()}
        seen: dict[str, int] = {}
        result = []
        for record in self.records:
            name = names[record.node]
            seen[name] = seen.get(name, -1) + 1
            name = f"{name}:{seen[name]}" if seen[name] else name
            result.append(CallId(name, record.node, tuple(record.logits.shape), record.logits.dtype))
        return result

    def over(self, closure: Closure, handler: Callable[[Node, Tensor], Tensor]):
        """Run it: (cost (batch, terms), logits, samples, sample gradients), lists with an entry for each record."""
        plan = self.plan
        taken = taken_over(plan.nodes.values(), handler=handler, only=type(plan).__name__)
        with taken, self.reads or nullcontext(), self.watch or nullcontext():
            cost = with_terms(closure) if plan.split_sums else closure()
            refuse_inner_losses(cost)
        if self.watch is not None:
            self.watch.note("cost", (cost,), {}, None)
        cost = checked_cost(cost)
        self.check_unchanged()
        outputs = [record.output for record in self.records if record.output is not None]
        gradients = sample_gradients(cost, outputs) if plan.needs_sample_gradients and self.differentiating else []
        self.graph.cut()
        return cost, [r.logits for r in self.records], [r.sample for r in self.records], gradients


def _sample(sample: Callable[[Call], Any], node: Node, key: tuple[Any, ...], logits: Tensor) -> Any:
    return sample(Call(node, logits, *key))


class Handler:
    """What a taken-over node calls: one object for good, so that compiled models are not compiled again."""

    def __init__(self) -> None:
        self.run: Run | None = None

    def __call__(self, node: Node, logits: Tensor) -> Tensor:
        run = self.run
        assert run is not None
        if run.reads is not None:
            output = run.reads.node(node, logits, run.on_node)
        elif run.watch is None:
            return run.on_node(node, logits)
        else:
            with torch._C.DisableTorchFunction():
                output = run.on_node(node, logits)
        if run.watch is not None:
            run.watch.note("node", (logits,), {}, output)
        return output


class Execution:
    """All runs of the closure in one call of an estimator."""

    def __init__(self, plan: Plan, closure: Closure, layout: Layout, run_type: type[Run] = Run) -> None:
        self.plan, self.closure, self.layout, self.run_type = plan, closure, layout, run_type
        refuse_shared(type(plan).__name__, plan.nodes)
        self.seed, self.differentiating = noise.draw_seed(), torch.is_grad_enabled()
        self.watching = False
        self.structures: list[Any] = []  # of each run, or of all in one vmap
        self.watches: list[Watch | None] = []
        self.random = Randomness()

    def run(self, index: Tensor, run_type: type[Run] | None = None, layout: Layout | None = None) -> Run:
        layout = self.layout if layout is None else layout
        return (run_type or self.run_type)(self.plan, index, self.seed, layout, self.differentiating)

    def runs(self) -> tuple[Tensor, list[Site]]:
        """Costs (runs, batch, terms) and the sites, for all runs that the plan has for the layout."""
        self.plan.reading = False
        count, finished = self.plan.runs(self.layout), []
        self.structures, self.watches, self.random = [], [], Randomness()

        def once(index: Tensor, layout: Layout | None = None, reads: Reads | None = None):
            run = self.run(index, layout=layout)
            finished.append(run)
            run.reads = reads
            if self.watching:
                run.watch = Watch()
                self.random.remember()
            outer, self.plan.handler.run = self.plan.handler.run, run
            try:
                if self.plan.split_sums:  # sums are watched, which the compiler cannot follow
                    return eagerly(run.over, self.closure, self.plan.handler)
                return run.over(self.closure, self.plan.handler)
            finally:
                self.plan.handler.run = outer
                self.structures.append(run.structure)
                self.watches.append(run.watch)
                if run.watch is not None:
                    run.watch.close()

        from_oracle = any(node._source is not None for node in self.plan.nodes.values())
        if count == 1:
            cost, *parts = once(torch.tensor(0, dtype=torch.int64, device="cpu"))
            costs, parts = cost.unsqueeze(0), [[t.unsqueeze(0) for t in part] for part in parts]
        elif self.plan.vectorize and not from_oracle:
            costs, *parts = self._vmapped(once, count)
        elif self.plan.runs_differ_by_kind or self.plan.needs_sample_gradients:
            # In compiled code nobody sees what Python looks at, and no sample is a leaf of a graph.
            return eagerly(self._looped, once, finished)
        else:
            return self._looped(once, finished)
        return costs, self._sites(finished[-1:], finished[-1].calls_by_name(), parts)

    def _vmapped(self, once: Callable[[Tensor], Any], count: int):
        try:
            # vmap cannot enter compiled code (pytorch#128711): compiled parts, if there can be any, run eagerly here.
            return eagerly(vectorized, once, count)
        except ClosureError:
            raise
        except RuntimeError as error:
            error.add_note(
                f"dither: {type(self.plan).__name__} makes its {count} runs as one vmap over the closure; where the "
                "closure cannot be vmapped (.item(), in-place updates of buffers, ...) use vectorize=False"
            )
            raise

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
            return Finished(result[0], finished[-1].calls_by_name(), *result[1:])

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
        line = lined(runs, calls)
        return line.costs, self._sites(finished, line.calls, line.parts, line.present)

    def _reads(self) -> Reads | None:
        """What watches whether Python looks at samples, where it matters and where there are values to look at."""
        return Reads() if self.plan.runs_differ_by_kind and values_are_there() else None

    def _sites(
        self, runs: list[Run], calls: list[CallId], parts: list[list[Tensor]], present: list[Tensor | None] | None = None
    ) -> list[Site]:
        require_called(any(run.calls > 0 for run in runs), self.plan)
        logits, samples, gradients = parts
        gradients = gradients or [None] * len(calls)  # type: ignore[list-item]
        sites = []
        for i, (call, a, h, g) in enumerate(zip(calls, logits, samples, gradients, strict=True)):
            sites.append(Site(call.name, call.node, a, h, g, i, len(calls), present=present[i] if present else None))
        if len(runs) == 1 and present is None:
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
