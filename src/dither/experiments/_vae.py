"""What the experiments on autoencoders share: a training as a resumable run folder, and the variance of gradients.

Counted in steps, not epochs, as the papers do: the loop of `dither.training.loop.fit` is one of epochs. Every pixel may be
drawn anew at every step from its grey value; the draws depend on the seed and the step alone, so all methods see the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dither import files, noise
from dither.training import checkpoint
from dither.training._progress import Tally, check_parameters, restore, save
from dither.training.interrupt import Interrupted, postponed
from dither.training.run_folder import RunFolder
from dither.training.state import pack, unpack

SAVE_SECONDS = 60.0
ORDERS, PIXELS, FIXED = 0, 2, 3  # streams of seeds


@dataclass
class Training:
    """The parts of one training. `estimator_optimizer` and `scheduler` may be None; the scheduler steps after each step."""

    model: Any  # a module with cost(x) -> (batch,)
    estimator: Any
    optimizer: torch.optim.Optimizer
    estimator_optimizer: torch.optim.Optimizer | None = None
    scheduler: Any = None

    @property
    def parts(self) -> dict[str, Any]:
        return {name: part for name, part in vars(self).items() if part is not None and hasattr(part, "state_dict")}


@dataclass(frozen=True)
class Plan:
    """How long to train, on what batches, and what to keep. minutes: of training, the rest is not counted."""

    steps: int
    batch_size: int
    seed: int
    binarise: bool
    record_every: int
    minutes: float | None = None
    snapshots: tuple[int, ...] = field(default=())


class Batches:
    """The batch of each step: a permutation of the examples for each epoch, an incomplete last batch left out."""

    def __init__(self, x: Tensor, plan: Plan) -> None:
        self.x, self.plan = x, plan
        self.per_epoch = len(x) // plan.batch_size
        if not self.per_epoch:
            raise ValueError(f"there are {len(x)} examples for batches of {plan.batch_size}: choose a smaller batch_size")
        self.epoch, self.order, self.generator = -1, torch.empty(0), torch.Generator()

    def __call__(self, step: int) -> Tensor:
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            self.generator.manual_seed(noise.step_seed(noise.step_seed(self.plan.seed, ORDERS), epoch))
            self.epoch, self.order = epoch, torch.randperm(len(self.x), generator=self.generator)
        grey = self.x[self.order[index * self.plan.batch_size :][: self.plan.batch_size]]
        if not self.plan.binarise:
            return grey
        return binarise(grey, noise.step_seed(noise.step_seed(self.plan.seed, PIXELS), step), self.generator)


def binarise(grey: Tensor, seed: int, generator: torch.Generator | None = None) -> Tensor:
    """Each pixel 1 with its grey value as probability, else 0; the same seed gives the same pixels."""
    generator = (generator or torch.Generator()).manual_seed(seed)
    return (torch.rand(grey.shape, generator=generator) < grey).to(grey.dtype)


def open_run(path: Path, settings: Mapping[str, Any]) -> RunFolder:
    """The run of these settings in `path`, new or to be continued. ValueError if another's is there."""
    if not (path / "config.json").is_file():
        return RunFolder.create(path, settings)
    found = files.read_json(path / "config.json")
    if different := sorted(key for key in settings.keys() | found.keys() if settings.get(key) != found.get(key)):
        raise ValueError(
            f"{path} holds a run with other {', '.join(different)}: choose another folder with --out, or remove that one"
        )
    return RunFolder.open(path)


def train(run: RunFolder, training: Training, x: Tensor, plan: Plan) -> list[dict[str, Any]]:
    """Train to the end of the plan, from the newest checkpoint of `run` if it has one.

    Returns a record for every `record_every` steps: step, train_elbo (the mean over the batches of these steps, each
    before its update) and seconds (of training so far). Snapshots of model and estimator are kept at plan.snapshots.
    """
    batches, tally = Batches(x, plan), Tally(plan.seed)
    identity = {"batch_size": plan.batch_size, "examples": len(x), "seed": plan.seed}
    step, records = restore(run, training.parts, identity, tally, plan.steps)
    seconds, saved = sum(row["seconds"] for row in run.timings()), time.monotonic()
    logged = seconds
    limit = float("inf") if plan.minutes is None else 60 * plan.minutes
    with postponed() as stop:
        while step < plan.steps and seconds < limit:
            if step in plan.snapshots:
                _keep(run, training, step)
            began = time.perf_counter()
            tally.add(_step(training, batches(step), plan.seed, step), plan.batch_size, step)
            step += 1
            seconds += time.perf_counter() - began
            last, stopping = step == plan.steps or seconds >= limit, stop.signum
            ends = last or step % plan.record_every == 0
            if not (ends or stopping):
                if tally.is_due():
                    tally.settle()
                continue
            tally.settle()
            check_parameters(training.model, step, plan.seed)
            if ends:
                records.append(run.metrics.append({"step": step, "train_elbo": -tally.mean()}))
                tally.reset()
            run.timing.append({"step": step, "seconds": seconds - logged})
            logged = seconds
            if last or stopping or time.monotonic() - saved > SAVE_SECONDS:
                save(run, training.parts, identity, tally, step, len(records), keep=2)
                saved = time.monotonic()
            if stopping:
                raise Interrupted(stopping, step)
        if step in plan.snapshots:
            _keep(run, training, step)
    return _with_seconds(records, run.timings())


def _step(training: Training, x: Tensor, seed: int, step: int) -> Tensor:
    torch.default_generator.manual_seed(noise.step_seed(seed, step))
    own = training.estimator_optimizer
    training.optimizer.zero_grad(set_to_none=True)
    if own is not None:
        own.zero_grad(set_to_none=True)
    loss = training.estimator(lambda: training.model.cost(x))
    loss.backward()
    training.optimizer.step()
    if own is not None:
        own.step()
    if training.scheduler is not None:
        training.scheduler.step()
    return loss.detach()


def _with_seconds(records: list[dict[str, Any]], timings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each record with the seconds up to its step (timing.jsonl has a line for each record, and for interruptions)."""
    return [record | {"seconds": sum(t["seconds"] for t in timings if t["step"] <= record["step"])} for record in records]


# --- snapshots and the variance of the gradient ----------------------------------------------------------------------------
def _keep(run: RunFolder, training: Training, step: int) -> None:
    tensors, state = {}, {}
    for name in ("model", "estimator"):
        own, state[name] = pack(getattr(training, name).state_dict(), name)
        tensors |= own
    checkpoint.save(run.path / "snapshots" / str(step), step, tensors, {"state": state})


def recall(path: Path, step: int, model: nn.Module, estimator: Any = None) -> bool:
    """Put model and estimator back as they were at `step` of the run in `path`; False if it keeps no such snapshot."""
    try:
        found = checkpoint.load(path / "snapshots" / str(step))
    except FileNotFoundError:
        return False
    for name, part in (("model", model), ("estimator", estimator)):
        if part is not None:
            part.load_state_dict(unpack(found.tensors, found.meta["state"][name]))
    return True


def warm_up(training: Training, batches: Batches, steps: int, seed: int) -> None:
    """Calls of the estimator on training batches with the model left as it is: moving averages settle, and the
    estimator's own parameters learn."""
    own = training.estimator_optimizer
    for step in range(steps):
        torch.default_generator.manual_seed(noise.step_seed(seed, step))
        x = batches(step)
        loss = training.estimator(lambda x=x: training.model.cost(x))
        if own is not None:
            own.zero_grad(set_to_none=True)
            loss.backward()
            own.step()
    training.model.zero_grad(set_to_none=True)


def gradient_variance(
    model: Any, estimator: Any, parameters: Iterable[nn.Parameter], x: Tensor, draws: int, seed: int
) -> dict[str, float]:
    """The variance of the gradient of the mean cost of the fixed batch `x` by `parameters`, over `draws` draws.

    variance is its mean over coordinates, variance_total the sum, signal the squared norm of the mean gradient corrected
    for the noise that is left in it. Unbiased (divided by draws - 1); the estimator's state is left as it is.
    """
    if draws < 2:
        raise ValueError(f"draws is {draws}: a variance needs at least 2; 100 or more tell methods apart")
    parameters = list(parameters)
    size = sum(p.numel() for p in parameters)
    mean, squares = torch.zeros(size), torch.zeros(size, dtype=torch.float64)
    with estimator.frozen():
        for draw in range(draws):
            torch.default_generator.manual_seed(noise.step_seed(seed, draw))
            grads = torch.autograd.grad(estimator(lambda: model.cost(x)), parameters, materialize_grads=True)
            gradient = torch.cat([g.reshape(-1) for g in grads])
            change = gradient - mean
            mean += change / (draw + 1)
            squares += change * (gradient - mean)
    total = float(squares.sum()) / (draws - 1)
    signal = float(mean.double().square().sum()) - total / draws
    return {"variance": total / size, "variance_total": total, "signal": signal}


# --- results kept as JSON ---------------------------------------------------------------------------------------------------
def finished(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `finish` wrote for these settings, or None."""
    if not path.is_file():
        return None
    kept = files.read_json(path)
    return kept["result"] if kept["settings"] == settings else None


def finish(path: Path, settings: Mapping[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    files.make_dir(path.parent)
    files.write_json(path, {"settings": settings, "result": result})
    return result
