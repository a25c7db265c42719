"""What a training run knows between two steps: the loss so far, and how to save all and put it back."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dither.training import checkpoint
from dither.training.metrics_log import CorruptLog
from dither.training.run_folder import RunFolder
from dither.training.state import Stateful, pack, unpack

READ_STEPS, READ_SECONDS = 50, 0.2


class MeanLoss:
    """The mean loss since the last record.  Losses are read in groups: reading each would stall the device."""

    def __init__(self, seed: int) -> None:
        self.seed, self.read_at = seed, time.monotonic()
        self.pending: list[tuple[Tensor, int, int]] = []
        self.reset()

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, loss: Tensor, examples: int, step: int) -> None:
        self.pending.append((loss, examples, step))

    def is_due(self) -> bool:
        return len(self.pending) >= READ_STEPS or time.monotonic() - self.read_at > READ_SECONDS

    def read(self) -> None:
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
        self.pending, self.read_at = [], time.monotonic()

    def mean(self) -> float:
        return self.total / self.count


def save(
    run: RunFolder,
    parts: Mapping[str, Stateful],
    identity: Mapping[str, int],
    loss: MeanLoss,
    step: int,
    records: int,
    keep: int,
) -> None:
    tensors, state = {}, {}
    for name, part in parts.items():
        own, state[name] = pack(part.state_dict(), name)
        tensors |= own
    run.metrics.sync()  # the checkpoint relies on these lines
    progress = {"records": records, "total": loss.total, "count": loss.count}
    meta = {"state": state, "plan": dict(identity), "progress": progress}
    checkpoint.save(run.checkpoints, step, tensors, meta, keep)


def restore(
    run: RunFolder, parts: Mapping[str, Stateful], identity: Mapping[str, int], loss: MeanLoss, last: int
) -> tuple[int, list[dict[str, Any]]]:
    """Put everything back as it was at the newest checkpoint: (its step, records); (0, []) when there is none."""
    try:
        saved = checkpoint.load(run.checkpoints)
    except FileNotFoundError:
        run.timing.rewind(0)
        return 0, run.metrics.rewind(0)
    _check_same(run, saved, parts, identity)
    if saved.step > last:
        raise ValueError(
            f"the training ends at step {last}, but {run.path} has done {saved.step}; ask for more epochs or steps"
        )
    progress, records = saved.meta["progress"], run.metrics.rewind(saved.step)
    if len(records) != progress["records"]:
        raise CorruptLog(f"{run.metrics.path} has {len(records)} of {progress['records']} records; start a new run")
    run.timing.rewind(saved.step)
    for name, part in parts.items():
        part.load_state_dict(unpack(saved.tensors, saved.meta["state"][name]))
    loss.total, loss.count = progress["total"], progress["count"]
    return saved.step, records


def _check_same(
    run: RunFolder, saved: checkpoint.Checkpoint, parts: Mapping[str, Stateful], identity: Mapping[str, int]
) -> None:
    state, was, progress = (saved.meta.get(key) for key in ("state", "plan", "progress"))
    if not (isinstance(state, dict) and isinstance(was, dict) and isinstance(progress, dict)):
        raise checkpoint.CorruptCheckpoint(f"{saved.path} was not written by a training; start a new run")
    if different := [f"{key}={now} (was {was.get(key)})" for key, now in identity.items() if now != was.get(key)]:
        raise ValueError(f"cannot resume {run.path} with {', '.join(different)}; use the run's values or a new run")
    if set(parts) != set(state):
        raise ValueError(f"cannot resume {run.path}: it saved {sorted(state)}, not {sorted(parts)}; pass the same parts")


def check_parameters(model: nn.Module, step: int, seed: int) -> None:
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter.detach()).all()):
            raise FloatingPointError(
                f"the parameter {name!r} is not finite after {step} steps (seed {seed}); lower the "
                "learning rate or clip the gradient"
            )
