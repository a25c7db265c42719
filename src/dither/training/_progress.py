"""What a training run knows between two steps: the loss so far, and how to save all and put it back."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from dither.training import checkpoint
from dither.training.metrics_log import CorruptLog
from dither.training.run_folder import RunFolder
from dither.training.state import pack, unpack

SETTLE_STEPS, SETTLE_SECONDS = 50, 0.2


class Tally:
    """The mean loss of the epoch so far.  Losses are read in groups: reading each would stall the device."""

    def __init__(self, seed: int) -> None:
        self.seed, self.pending, self.looked = seed, [], time.monotonic()
        self.reset()

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, loss: Tensor, examples: int, step: int) -> None:
        self.pending.append((loss, examples, step))

    def is_due(self) -> bool:
        return len(self.pending) >= SETTLE_STEPS or time.monotonic() - self.looked > SETTLE_SECONDS

    def settle(self) -> None:
        """Add the pending losses one by one, so that the sum does not depend on how they were grouped."""
        values = torch.stack([loss for loss, _, _ in self.pending]).tolist() if self.pending else []
        for value, (_, examples, step) in zip(values, self.pending, strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value} at step {step} (seed {self.seed}; all noise of that step comes "
                    f"from torch.manual_seed(dither.noise.step_seed({self.seed}, {step}))); lower the "
                    "learning rate, or look for a logarithm or division of zero in the cost"
                )
            self.total += value * examples
            self.count += examples
        self.pending, self.looked = [], time.monotonic()

    def mean(self) -> float:
        return self.total / self.count


def save(run: RunFolder, parts: dict[str, Any], plan: dict, tally: Tally, step: int, records: int, keep: int) -> None:
    tensors, state = {}, {}
    for name, part in parts.items():
        own, state[name] = pack(part.state_dict(), name)
        tensors |= own
    run.metrics.sync()  # the checkpoint relies on these lines
    progress = {"records": records, "total": tally.total, "count": tally.count}
    checkpoint.save(run.checkpoints, step, tensors, {"state": state, "plan": plan, "progress": progress}, keep)


def restore(run: RunFolder, parts: dict[str, Any], plan: dict, tally: Tally, last: int) -> tuple[int, list[dict[str, Any]]]:
    """Put everything back as it was at the newest checkpoint; (0, []) when there is none."""
    try:
        found = checkpoint.load(run.checkpoints)
    except FileNotFoundError:
        run.timing.rewind(0)
        return 0, run.metrics.rewind(0)
    state, saved, progress = (found.meta.get(key) for key in ("state", "plan", "progress"))
    if not (isinstance(state, dict) and isinstance(saved, dict) and isinstance(progress, dict)):
        raise checkpoint.CorruptCheckpoint(f"{found.path} was not written by fit; start a new run")
    if different := [f"{key}={plan[key]} (was {saved.get(key)})" for key in plan if plan[key] != saved.get(key)]:
        raise ValueError(f"cannot resume {run.path} with {', '.join(different)}; use the run's values or a new run")
    if set(parts) != set(state):
        raise ValueError(f"cannot resume {run.path}: it saved {sorted(state)}, given are {sorted(parts)}; pass the same")
    if found.step > last:
        raise ValueError(f"epochs end at step {last}, but {run.path} has done {found.step}; ask for more epochs")
    records = run.metrics.rewind(found.step)
    if len(records) != progress["records"]:
        raise CorruptLog(f"{run.metrics.path} has {len(records)} of {progress['records']} records; start a new run")
    run.timing.rewind(found.step)
    for name, part in parts.items():
        part.load_state_dict(unpack(found.tensors, state[name]))
    tally.total, tally.count = progress["total"], progress["count"]
    return found.step, records


def check_parameters(model: nn.Module, step: int, seed: int) -> None:
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter.detach()).all()):
            raise FloatingPointError(
                f"the parameter {name!r} is not finite after {step} steps (seed {seed}); lower the "
                "learning rate or clip the gradient"
            )
