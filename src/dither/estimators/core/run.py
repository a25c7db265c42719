"""One run of a closure with the nodes taken over, or all runs at once in a vmap, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from dither.estimators.core.call import Call, Layout
from dither.estimators.core.loop import CallId, RowsKey
from dither.estimators.core.mappable import Mappable, Vectorize
from dither.estimators.core.nesting import refuse_inner_losses
from dither.estimators.core.reads import Reads
from dither.estimators.core.sample_gradients import Graph, sample_gradients
from dither.estimators.core.site import Closure, Site, checked_cost
from dither.estimators.core.structure import Watch
from dither.estimators.core.sums import with_terms
from dither.estimators.core.transforms import depth, refuse_deeper
from dither.estimators.core.versions import shares_memory, version
from dither.nodes import ClosureError, Node, noted, present_rows, taken_over


class Recorded(Protocol):
    """What a run needs to know of who credits its nodes."""

    nodes: dict[str, Node]
    handler: Handler
    needs_sample_gradients: ClassVar[bool]

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]: ...


class Plan(Recorded, Protocol):
    """What an execution needs to know of its estimator."""

    model: nn.Module
    vectorize: Vectorize
    samples: int
    repeated: bool
    local_credit: bool
    mappable: Mappable
    split_sums: bool
    run_type: type[Run]
    runs_depend_on_layout: ClassVar[bool]
    runs_differ_by_kind: ClassVar[bool]
    reading: bool

    @property
    def groups(self) -> int: ...

    def runs(self, layout: Layout) -> int: ...

    def starts(self, layout: Layout) -> list[int]: ...

    def own_runs(self, values: Tensor) -> Tensor: ...


@dataclass
class Record:
    """One call of a discrete node in a run."""

    node: Node
    logits: Tensor
    sample: Tensor
    output: Tensor | None = None
    rows: RowsKey | None = None


class Run:
    """One run of the closure; in a vmap over runs, all of them at once."""

    def __init__(self, plan: Recorded, index: Tensor, seed: Tensor, layout: Layout, differentiating: bool) -> None:
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
        sample = noted(self.sampling(node, key))
        if node._unseen != (unseen := self.differentiating and not torch.is_grad_enabled()):
            node._unseen = unseen  # nn.Module takes its time for it
        self.calls += 1
        output, credited = sample(logits)
        if credited is None:
            return output
        leaf = output if self.plan.needs_sample_gradients else None
        present = present_rows()
        rows = None if present is None else RowsKey(present.index, present.batch)
        self.records.append(Record(node, logits, credited, leaf, rows))
        self.versions.append((node, logits, version(logits)))
        # What the user changes in place may be neither the record nor the leaf of the sample gradients.
        return output.clone() if leaf is not None or shares_memory(output, credited) else output

    def sampling(self, node: Node, key: tuple[Any, ...]) -> Callable[[Tensor], Any]:
        """What computes a call's output and the sample that is credited, of its logits."""
        return partial(_sample, self.plan.sample, node, key)

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
            result.append(CallId(name, record.node, tuple(record.logits.shape), record.logits.dtype, record.rows))
        return result

    def over(self, closure: Closure, handler: Callable[[Node, Tensor], Tensor]):
        """Run it: (cost (batch, terms), logits, samples, sample gradients), lists with an entry for each record."""
        plan = self.plan
        taken = taken_over(plan.nodes.values(), handler=handler, only=type(plan).__name__)
        with taken, self.reads or nullcontext(), self.watch or nullcontext():
            cost = with_terms(closure) if getattr(plan, "split_sums", False) else closure()
            refuse_inner_losses(cost)
        if self.watch is not None:
            self.watch.note("cost", (cost,), {}, None)
        return self.left(cost)

    def left(self, cost: Tensor):
        """What it leaves when it is over, with this cost."""
        plan, cost = self.plan, checked_cost(cost)
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
