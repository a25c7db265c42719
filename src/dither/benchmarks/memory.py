"""What a training step keeps and allocates: 784-500x(D-1)-10, batch 256, beside back-propagated straight-through.

    activations   bytes that stay allocated between forward and backward, beyond what was there before the step
    peak          the most that was allocated at any moment of the step, beyond the same; gradients are there before

Both are counted by torch's own profiler of its CPU allocator, gradients and parameters excluded because they exist before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Config:
    """Bytes that a step keeps for its backward pass, and its peak."""

    depths: tuple[int, ...] = (3, 10, 30)
    width: int = 500
    batch_size: int = 256
    seed: int = 0


def run(config: Config, folder: Path, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    """{"rows": a row per depth and implementation}: KiB, and those of straight-through (rand < p) divided by them."""
    from dither.experiments import _deep, _timing

    _timing.prepare(1, "highest", config.seed)
    rows = []
    for depth in config.depths:
        net, x, y = _deep.problem(depth, config.width, config.batch_size)
        found = {}
        for name, step in _deep.steps(net, x, y).items():
            if "bf16" in name:
                continue
            step()  # gradients exist, and estimators have their state
            found[name] = measured(step)
        reference = found["torch, rand < p"]
        for name, (kept, peak) in found.items():
            rows.append(
                {
                    "depth": depth,
                    "implementation": name,
                    "activations_kib": round(kept / 1024, 1),
                    "peak_kib": round(peak / 1024, 1),
                }
                | {"activations_saved": round(reference[0] / kept, 1), "peak_saved": round(reference[1] / peak, 1)}
            )
        progress(f"depth {depth}: {rows[-1]['implementation']} keeps 1/{rows[-1]['activations_saved']} of the activations")
    return {"rows": rows}


def measured(step: Callable[[], Any]) -> tuple[int, int]:
    """(bytes kept when the backward pass begins, peak bytes) of a step, from the allocator's events."""
    import torch

    marks: list[int] = []
    original = torch.Tensor.backward

    def backward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.profiler.record_function("dither::backward_begins"):
            pass
        return original(self, *args, **kwargs)

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        torch.Tensor.backward = backward  # type: ignore[method-assign]
        try:
            step()
        finally:
            torch.Tensor.backward = original  # type: ignore[method-assign]
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = sorted(_flat(profile.profiler.kineto_results.experimental_event_tree()), key=lambda e: e.start_time_ns)
    now = peak = kept = 0
    for event in events:
        if event.typed[0].name == "Allocation":
            now += event.typed[1].alloc_size
            peak = max(peak, now)
        elif event.name == "dither::backward_begins":
            kept = now
            marks.append(now)
    assert len(marks) == 1, "a step has one backward pass"
    return kept, peak


def _flat(events: Any) -> Any:
    for event in events:
        yield event
        yield from _flat(event.children)
