"""The one training loop, counted in steps. Interrupted at any moment, it resumes to the same bits.

What a step does is the caller's. The loop seeds the step, reads its loss, records, saves, and stops on a signal.
`loop.fit` is a view of it that counts epochs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dither import noise
from dither.training._progress import MeanLoss, check_parameters, restore, save
from dither.training.interrupt import Interrupted, postponed
from dither.training.metrics_log import clean
from dither.training.run_folder import RunFolder
from dither.training.state import stateful

Record = dict[str, Any]  # a line of metrics.jsonl


@dataclass(frozen=True)
class Plan:
    """When a training ends, records and saves, counted in steps.

    seed            step k takes all its noise from `noise.step_seed(seed, k)`
    steps           in all
    record_every    from one record to the next; the last step makes one too
    save_every      from one checkpoint to the next; the last step and a signal make one too
    save_seconds    since the last checkpoint, before which `save_every` makes none
    minutes         of training, without records and checkpoints: the step that exceeds them is the last
    keep            how many checkpoints stay, the newest
    unit            what a line of timing.jsonl calls the number of its record
    """

    seed: int
    steps: int
    record_every: int
    save_every: int
    save_seconds: float = 0.0
    minutes: float | None = None
    keep: int = 2
    unit: str = "record"


@dataclass(frozen=True)
class Task:
    """What is done at each step, as plain functions.

    batch_of    step -> its batch, the examples along the first dimension
    update      batch -> its mean loss, detached: one update of the parameters
    record      (steps done, mean loss since the last record) -> the next record, with an entry "step"
    before      called before each step with the number of steps done
    on_record   called with each record of this call and the seconds of its steps
    progress    called a few times a second with the steps done and the mean loss since the last record
    """

    batch_of: Callable[[int], Tensor]
    update: Callable[[Tensor], Tensor]
    record: Callable[[int, float], Record]
    before: Callable[[int], object] | None = None
    on_record: Callable[[Record, float], object] | None = None
    progress: Callable[[int, float], object] | None = None


class Loop:
    """One training: `step` steps are done, which took `seconds`, and left `records`.

    parts       what a checkpoint holds, as far as it has a state: name -> optimizer, estimator, scheduler, ...
    run         where to log and checkpoint; SIGINT and SIGTERM then checkpoint and raise `Interrupted`
    resume      continue from the newest checkpoint of `run`, or start if it has none
    identity    numbers that must be the same when a run is resumed, such as the batch size
    device      where noise is sampled
    Raises      what `loop.fit` raises.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Mapping[str, object],
        task: Task,
        plan: Plan,
        run: RunFolder | None = None,
        *,
        resume: bool = False,
        identity: Mapping[str, int] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.model, self.task, self.plan, self.run, self.device = model, task, plan, run, device
        self.parts, self.identity = stateful({"model": model, **parts}), dict(identity or {})
        self.loss = MeanLoss(plan.seed)
        self.step, self.records = restore(run, self.parts, self.identity, self.loss, plan.steps) if run and resume else (0, [])
        self.seconds = sum(row["seconds"] for row in run.timings()) if run else 0.0
        self._timed = (self.step, self.seconds)  # at the last line of timing.jsonl
        self._recorded = self.seconds  # at the last record of this call
        self._saved = time.monotonic()
        self._over = self._is_over()

    def train(self) -> list[Record]:
        """Make the steps that are left; all records."""
        signum = 0
        with postponed(self.run is not None) as stop:
            while not (self._over or signum):
                self._advance()
                signum = stop.signum  # one that comes later, while evaluating say, ends the next step
                self._follow_up(signum != 0)
            if stop.signum:
                raise Interrupted(stop.signum, self.step)
        return self.records

    def _advance(self) -> None:
        """One step."""
        if self.task.before:
            self.task.before(self.step)
        began = time.perf_counter()
        batch = self.task.batch_of(self.step)
        reseed(noise.step_seed(self.plan.seed, self.step), self.device)
        try:
            self.loss.add(self.task.update(batch), len(batch), self.step)
        except FloatingPointError as failure:
            raise FloatingPointError(f"{failure} (step {self.step}, seed {self.plan.seed})") from failure
        self.step += 1
        self.seconds += time.perf_counter() - began
        self._over = self._is_over()

    def _follow_up(self, stopping: bool) -> None:
        """What is due after a step, in its order."""
        ends = self._over or self.step % self.plan.record_every == 0
        saves = self.run is not None and (self._over or stopping or self._is_save_due())
        if ends or saves or self.loss.is_due():
            self._read()
        if ends or saves:
            check_parameters(self.model, self.step, self.plan.seed)
        if ends:
            self._record()
        if self.run and (ends or saves):
            self._time(self.run, len(self.records) + (not ends))
        if self.run and saves:
            save(self.run, self.parts, self.identity, self.loss, self.step, len(self.records), self.plan.keep)
            self._saved = time.monotonic()
        if ends:
            self._announce()

    def _is_over(self) -> bool:
        minutes = self.plan.minutes
        return self.step >= self.plan.steps or (minutes is not None and self.seconds >= 60 * minutes)

    def _is_save_due(self) -> bool:
        return self.step % self.plan.save_every == 0 and time.monotonic() - self._saved >= self.plan.save_seconds

    def _read(self) -> None:
        """Wait for the losses, and so for a GPU, whose time counts."""
        began = time.perf_counter()
        self.loss.read()
        self.seconds += time.perf_counter() - began
        if self.task.progress:
            self.task.progress(self.step, self.loss.mean())

    def _record(self) -> None:
        record = clean(self.task.record(self.step, self.loss.mean()))
        self.loss.reset()
        self.records.append(record)
        if self.run:
            self.run.metrics.append(record)

    def _time(self, run: RunFolder, number: int) -> None:
        """A line with the seconds since the last one: of a record, or of a part of one where a checkpoint cuts it."""
        step, seconds = self._timed
        row = {self.plan.unit: number, "step": self.step, "steps": self.step - step, "seconds": self.seconds - seconds}
        run.timing.append(row)
        self._timed = (self.step, self.seconds)

    def _announce(self) -> None:
        seconds, self._recorded = self.seconds - self._recorded, self.seconds
        if self.task.on_record:
            self.task.on_record(self.records[-1], seconds)


def reseed(seed: int, device: torch.device | None = None) -> None:
    # torch.manual_seed takes 80 us, for the sake of devices that a model on the CPU does not use.
    cpu = device is None or device.type == "cpu"
    (torch.default_generator.manual_seed if cpu else torch.manual_seed)(seed)
