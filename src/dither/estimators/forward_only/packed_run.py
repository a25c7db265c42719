"""A run of the closure in which binary nodes keep packed bits, and the Linear layers between them work on those."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from dither import kernels
from dither.estimators.core.run import Plan, Record, Run
from dither.estimators.core.site import Closure, Site
from dither.estimators.core.transforms import refuse_deeper
from dither.estimators.core.versions import version
from dither.estimators.forward_only.packed_site import PackedSite, Segment
from dither.nodes import Bernoulli, Node, in_region, present_rows
from dither.scoped import Scoped

Keep = Literal["logits", "bits"]


class PackingPlan(Plan, Protocol):
    """What a packed run needs to know of its estimator besides."""

    samples: int
    keep: Keep
    linears: dict[nn.Linear, Callable[[Tensor], Tensor]]  # what takes the place of their forward


_PRESENT: Scoped[PackedRun | None] = Scoped(None)  # the run of this thread and task
_LOCK = Lock()
_USERS: dict[nn.Linear, tuple[int, Callable[[Tensor], Tensor] | None]] = {}  # runs in any thread, and the layer's own forward


@dataclass
class _Source:
    """A tensor of the run, by what computed it: a node (packed bits, number of its site) or a Linear."""

    tensor: weakref.ref[Tensor]
    version: int
    packed: Tensor | None = None
    site: int = -1
    segment: Segment | None = None


class PackedRun(Run):
    """`segments` has an entry for each record: what leads to its logits, or None if it is not packed."""

    plan: PackingPlan

    def __init__(self, *state: Any) -> None:
        super().__init__(*state)
        self.segments: list[Segment | None] = []
        self._sources: dict[int, _Source] = {}

    def over(self, closure: Closure, handler: Callable[[Node, Tensor], Tensor]):
        with _taken_over(self.plan.linears), _PRESENT.set(self):
            return super().over(closure, handler)

    def lines_up(self, runs: Sequence[Run]) -> bool:
        """Whether the nodes of all runs are the same, and come behind the same layers: the bits of all are kept together."""
        calls, segments = self.calls_by_name(), [s and (s.linear, s.site) for s in self.segments]
        return all(
            isinstance(run, PackedRun)
            and run.calls_by_name() == calls
            and [s and (s.linear, s.site) for s in run.segments] == segments
            for run in runs
        )

    def sites(self, sites: list[Site]) -> list[Site]:
        packed: list[Site] = []
        for site, segment in zip(sites, self.segments, strict=True):
            before = packed[segment.site] if segment is not None and segment.site >= 0 else None
            packed.append(site if segment is None else PackedSite(site, segment, before, self.drops(segment)))
        return packed

    def drops(self, segment: Segment | None) -> bool:
        """Whether the logits behind this segment are computed anew when they are needed."""
        return self.plan.keep == "bits" and segment is not None and segment.linear is not None

    # --- nodes ------------------------------------------------------------------------------------------------------------
    def on_node(self, node: Node, logits: Tensor) -> Tensor:
        ordinary = torch.compiler.is_compiling() or in_region() or present_rows() is not None
        if ordinary or type(node) is not Bernoulli or node.values != (0, 1) or logits.dim() < 2:
            if node.discrete:
                self.segments.append(None)
            return super().on_node(node, logits)
        refuse_deeper(node, self.depth, type(self.plan).__name__)
        node._unseen = self.differentiating and not torch.is_grad_enabled()
        h, packed = self._bits(node, logits)
        computed = self._source(logits)
        segment = Segment() if computed is None or computed.segment is None else computed.segment
        self.segments.append(segment)
        self._note(h, packed=packed, site=len(self.records))
        if self.drops(segment):  # of the logits their shape alone is kept
            logits = torch.zeros((), dtype=logits.dtype, device=logits.device).expand(tuple(logits.shape))
        else:
            self.versions.append((node, logits, version(logits)))
        self.calls += 1
        self.records.append(Record(node, logits, packed))
        return h

    def _bits(self, node: Node, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The sample, and it packed."""
        if node._source is None:
            key = node.keyed(logits, self.seed, self.calls, self.index, slices_differ=False).key
            return kernels.bernoulli_packed(logits, key)
        h = self.call(node, logits).sample()
        return h, kernels.pack(h.flatten(1))

    # --- layers -----------------------------------------------------------------------------------------------------------
    def linear(self, linear: nn.Linear, x: Tensor) -> Tensor:
        """The layer's output, on the bits of x where it has them."""
        forward = own_forward(linear)
        source = self._source(x)
        same = x.dtype == linear.weight.dtype or torch.is_autocast_enabled(x.device.type)  # bits are exact in every dtype
        if source is None or source.packed is None or x.dim() != 2 or not same:
            output = forward(x)
            # Several runs might each have values of their own.
            plain = self.plan.samples == 1 and x.dim() == 2 and not x.requires_grad
            if plain and x.dtype == output.dtype == linear.weight.dtype:
                self._note(output, segment=Segment(linear, (linear.weight, linear.bias), values=x))
            return output
        with torch._C.DisableTorchFunction():
            output = kernels.packed_linear(source.packed, linear.weight, linear.bias)
        if self.watch is not None:
            self.watch.note("linear", (x, linear.weight, linear.bias), {}, output)
        self._note(output, segment=Segment(linear, (linear.weight, linear.bias), site=source.site))
        return output

    def _note(self, tensor: Tensor, **by: Any) -> None:
        if tensor.is_inference():  # it counts no changes: layers behind it work on its values
            return
        self._sources[id(tensor)] = _Source(weakref.ref(tensor), version(tensor), **by)

    def _source(self, tensor: Tensor) -> _Source | None:
        """What computed this very tensor, if nothing has changed it since."""
        source = self._sources.get(id(tensor))
        return source if source is not None and source.tensor() is tensor and source.version == version(tensor) else None


# --- layers taken over --------------------------------------------------------------------------------------------------
def present_run(linear: nn.Linear) -> PackedRun | None:
    """The run in this thread that has taken over the layer. That of another thread does not count."""
    run = _PRESENT.get()
    return run if run is not None and linear in run.plan.linears else None


def own_forward(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    """What the layer computes while nobody has taken it over."""
    return _USERS.get(linear, (0, None))[1] or partial(nn.Linear.forward, linear)


@contextmanager
def _taken_over(linears: dict[nn.Linear, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Give each layer its forward of `linears`, which asks for the present run. Runs of several threads overlap in any order:
    the first gives it, the last takes it away."""
    with _LOCK:
        for linear, taken in linears.items():
            users, own = _USERS.get(linear) or (0, vars(linear).get("forward"))
            _USERS[linear] = users + 1, own
            vars(linear)["forward"] = vars(linear)["forward"] if users else taken
    try:
        yield
    finally:
        with _LOCK:
            for linear in linears:
                users, own = _USERS.pop(linear)
                if users > 1:
                    _USERS[linear] = users - 1, own
                    continue
                vars(linear).pop("forward")
                vars(linear).update({"forward": own} if own else {})
