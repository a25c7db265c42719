"""Runs that are made one after the other. Each may call other nodes than the others: here they are lined up, call by call."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dither.estimators.core.auxiliary import Aux
from dither.estimators.core.call import Layout
from dither.nodes import Node, is_concrete


class RowsKey:
    """Whose rows a call has: equal where the rows are the same examples'."""

    __slots__ = ("batch", "index")

    def __init__(self, index: Tensor, batch: int | None) -> None:
        self.index, self.batch = index, batch

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowsKey) and torch.equal(self.index, other.index)

    def __hash__(self) -> int:
        return len(self.index)


class CallId(NamedTuple):
    """Which call of a run it is. In two runs it is the same call where all of this is the same, which is known before the call
    samples: so what runs are lined up by depends on no sample that is credited."""

    name: str
    node: Node
    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: RowsKey | None = None


class Finished(NamedTuple):
    """What a run left: its cost (batch, terms), which calls it made, and for each of them logits, sample and, where they are
    needed, sample gradient; and what the closure returned besides."""

    cost: Tensor
    calls: list[CallId]
    logits: list[Tensor]
    samples: list[Tensor]
    gradients: list[Tensor]
    aux: Aux | None = None

    @property
    def layout(self) -> Layout:
        return layout_of(self.calls)


class Lined(NamedTuple):
    """Runs in line: costs (K, batch, terms); a list of the calls, and for each of them a tensor (K, batch, ...) in `parts` and
    the runs that made it, (K,) bool, in `present`; None: all did."""

    costs: Tensor
    calls: list[CallId]
    parts: list[list[Tensor]]
    present: list[Tensor | None]


class Grouped(Protocol):
    """An estimator whose runs are in groups: a first run, and for each call of it some that take other samples from there on.
    reading: whether Python looks at samples, so that those may lead to other calls."""

    reading: bool

    @property
    def groups(self) -> int: ...

    def runs(self, layout: Layout) -> int: ...

    def starts(self, layout: Layout) -> list[int]: ...


def layout_of(calls: list[CallId]) -> Layout:
    return tuple((call.node, call.shape[1:]) for call in calls)


# --- groups -------------------------------------------------------------------------------------------------------------
def in_groups(plan: Grouped, make: Callable[[int, Layout], Finished], guess: Layout) -> list[list[Finished]]:
    """The runs of each group, of which the first says how many there are. make: (number of the run, layout of its group)."""
    groups = []
    for group in range(plan.groups):
        first = make(group * (plan.runs(guess) // plan.groups), guess)
        size = plan.runs(first.layout) // plan.groups if first.calls else 1
        runs = [first, *(make(group * size + role, first.layout) for role in range(1, size))]
        starts = plan.starts(first.layout) if size > 1 else []
        for layer in range(len(starts) - 1):
            for run in runs[starts[layer] : starts[layer + 1]]:
                _require_same_start(first, run, layer, plan.reading)
        groups.append(runs)
    return groups


def _require_same_start(first: Finished, run: Finished, layer: int, reading: bool) -> None:
    """Raise unless a run came to its own call by the calls, and there to the logits, of its group's first run; and, where its
    samples cannot lead to other calls, went on by the same calls."""
    node, until = first.calls[layer], layer + 1 if reading else None
    same = run.calls[:until] == first.calls[:until]
    if same and (not is_concrete(run.logits[layer]) or _alike(first.logits[layer], run.logits[layer])):
        return
    raise ValueError(
        f"the closure gave node '{node.name}' other logits, or called other nodes, in one of its runs than in the first one, "
        "though no sample led to that: it changes by itself (a counter, an iterator, a generator of its own, spectral_norm in "
        "training mode), and runs that are compared may differ by their samples alone; compute what changes before the call, "
        "or use dither.ScoreFunction(model, baseline='leave-one-out', samples=2), whose runs may differ"
    )


def _alike(one: Tensor, other: Tensor) -> bool:
    # Sums may be taken in another order; what a closure changes by itself is larger.
    accuracy = torch.finfo(one.dtype).eps ** 0.5
    return torch.allclose(one.detach(), other.detach(), rtol=accuracy, atol=accuracy, equal_nan=True)


def united(plan: Grouped, groups: list[list[Finished]]) -> tuple[list[Finished], list[CallId]]:
    """All runs, as if every first run had made the calls of all of them. Where one did not make a call, it stands for those of
    its group's runs that would take other samples there: then nothing differs."""
    calls = list(dict.fromkeys(call for first, *_ in groups for call in first.calls))
    if all(first.calls == calls for first, *_ in groups):
        return [run for runs in groups for run in runs], calls
    every, united = plan.starts(layout_of(calls)), []
    for first, *others in groups:
        own, runs = plan.starts(first.layout), [first, *others]
        united.append(first)
        for number, call in enumerate(calls):
            if call in first.calls:
                layer = first.calls.index(call)
                united += runs[own[layer] : own[layer + 1]]
            else:
                united += [first] * (every[number + 1] - every[number])
    return united, calls


# --- in line ------------------------------------------------------------------------------------------------------------
def lined(runs: list[Finished], calls: list[CallId] | None = None) -> Lined:
    """The runs in line, by their calls, or by those of them that count. In place of a call that a run did not make is that of
    another run, detached, with a sample gradient of 0: so it adds nothing to a gradient that is taken along the logits."""
    calls = list(dict.fromkeys(call for run in runs for call in run.calls)) if calls is None else calls
    places = [dict(zip(run.calls, range(len(run.calls)), strict=True)) for run in runs]
    at = [[place.get(call) for place in places] for call in calls]
    parts: list[list[Tensor]] = [
        [torch.stack(_filled([getattr(run, part) for run in runs], places)) for places in at] for part in ("logits", "samples")
    ]
    if runs[0].gradients or any(run.gradients for run in runs):
        parts.append([torch.stack(_filled([run.gradients for run in runs], places, zero=True)) for places in at])
    else:
        parts.append([])
    present = [_present(places, part) for places, part in zip(at, parts[0], strict=True)]
    return Lined(_stacked([run.cost for run in runs]), calls, parts, present)


def _filled(of_runs: list[list[Tensor]], places: list[int | None], zero: bool = False) -> list[Tensor]:
    """Of each run its tensor at its place; where it has none, that of the first run that has one."""
    known = next(tensors[place].detach() for tensors, place in zip(of_runs, places, strict=True) if place is not None)
    known = torch.zeros_like(known) if zero else known
    return [known if place is None else tensors[place] for tensors, place in zip(of_runs, places, strict=True)]


def _present(places: list[int | None], like: Tensor) -> Tensor | None:
    has_call = [place is not None for place in places]
    return None if all(has_call) else torch.tensor(has_call, dtype=torch.bool, device=like.device)


def _stacked(costs: list[Tensor]) -> Tensor:
    """(K, batch, terms); a term that a run did not come to costs nothing there."""
    batches = sorted({len(cost) for cost in costs})
    if len(batches) > 1:
        raise ValueError(
            f"the closure returned costs for {' and '.join(map(str, batches))} examples in different runs of one call: "
            "each run must return a cost for each example, shape (batch,)"
        )
    terms = max(cost.shape[1] for cost in costs)
    return torch.stack([cost if cost.shape[1] == terms else F.pad(cost, (0, terms - cost.shape[1])) for cost in costs])
