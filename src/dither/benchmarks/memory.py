"""What a training step keeps and allocates: 784-500x(D-1)-10, batch 256, beside back-propagated straight-through.

    activations   bytes that stay allocated between forward and backward, beyond what was there before the step
    peak          the maximum that was allocated at any moment of the step, beyond the same; gradients are there before

Both are counted by torch's own profiler of its CPU allocator, gradients and parameters excluded because they exist
before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dither.benchmarks import deep_nets, timing
from dither.benchmarks.deep_nets import RAND
from dither.benchmarks.timing import Step
from dither.tables import Progress, Result, Row

if TYPE_CHECKING:
    from torch._C._profiler import _ProfilerEvent

MARK = "dither::backward_begins"


@dataclass(frozen=True)
class Config:
    """Bytes that a step keeps for its backward pass, and its peak."""

    depths: tuple[int, ...] = (3, 10, 30)
    width: int = 500
    batch_size: int = 256
    seed: int = 0


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": a row per depth and implementation}: KiB, and those of straight-through (rand < p) divided by them."""
    timing.prepare(1, "highest", config.seed)
    rows = []
    for depth in config.depths:
        net, x, y = deep_nets.problem(depth, config.width, config.batch_size)
        sizes: dict[str, tuple[int, int]] = {}
        for name, step in deep_nets.steps(net, x, y).items():
            if "bf16" in name:
                continue
            step()  # gradients exist, and estimators have their state
            sizes[name] = measured(step)
        rows += [{"depth": depth} | _row(name, sizes[name], sizes[RAND]) for name in sizes]
        progress(f"depth {depth}: {rows[-1]['implementation']} keeps 1/{rows[-1]['activations_saved']} of the activations")
    return {"rows": rows}


def _row(name: str, size: tuple[int, int], reference: tuple[int, int]) -> Row:
    (activations, peak), (activations_there, peak_there) = size, reference
    row: Row = {"implementation": name, "activations_kib": round(activations / 1024, 1), "peak_kib": round(peak / 1024, 1)}
    row |= {"activations_saved": round(activations_there / activations, 1), "peak_saved": round(peak_there / peak, 1)}
    return row


def measured(step: Step) -> tuple[int, int]:
    """(bytes allocated when the backward pass begins, peak bytes) of a step, from the allocator's events."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile, _marked():
        step()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = sorted(_flat(profile.profiler.kineto_results.experimental_event_tree()), key=lambda event: event.start_time_ns)
    now = peak = 0
    marks: list[int] = []
    for event in events:
        if event.typed[0].name == "Allocation":
            now += event.typed[1].alloc_size  # type: ignore[union-attr]
            peak = max(peak, now)
        elif event.name == MARK:
            marks.append(now)
    assert len(marks) == 1, "a step has one backward pass"
    return marks[0], peak


@contextmanager
def _marked() -> Iterator[None]:
    """While it lasts, `Tensor.backward` leaves a mark among the profiler's events."""
    original = torch.Tensor.backward

    def backward(self: torch.Tensor, *args: object, **kwargs: object) -> object:
        with torch.profiler.record_function(MARK):
            pass
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    torch.Tensor.backward = backward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.Tensor.backward = original  # type: ignore[method-assign]


def _flat(events: Sequence[_ProfilerEvent]) -> Iterator[_ProfilerEvent]:
    for event in events:
        yield event
        yield from _flat(event.children)
