"""The training loop: seeding, logging, checkpoints and resuming, in one place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dither import noise
from dither.cuda_graphs import Graphed
from dither.training._progress import Tally, check_parameters, restore, save
from dither.training.interrupt import Interrupted, postponed
from dither.training.metrics_log import clean
from dither.training.run_folder import RunFolder


def fit(
    model: nn.Module,
    estimator: Callable[[Callable[[], Tensor]], Tensor],
    optimizer: torch.optim.Optimizer,
    cost: Callable[[nn.Module, Tensor, Tensor], Tensor],
    train: tuple[Tensor, Tensor],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    run: RunFolder | None = None,
    resume: bool = False,
    evaluate: Callable[[], dict[str, float]] | None = None,
    scheduler: Any = None,
    checkpoint_every: int | None = None,
    keep: int = 2,
    cuda_graph: bool = False,
    progress: Callable[[int, int, str], Any] | None = None,
    on_epoch: Callable[[dict[str, Any], float], Any] | None = None,
) -> list[dict[str, Any]]:
    """Train `model`, and return one record per epoch: epoch, step, train_loss, and what `evaluate` returned.

    cost              (model, x, y) -> cost of each example, (batch,) or (batch, terms)
    train             (x, y), the examples along the first dimension, on the model's device
    run               where to log and checkpoint; SIGINT and SIGTERM then checkpoint and raise `Interrupted`
    resume            continue from the newest checkpoint of `run`, or start if it has none; a finished run
                      returns its records at once.  Weights and metrics.jsonl are bit-identical to those of an
                      uninterrupted run.
    evaluate          called after every epoch; its numbers join the record.  The model is in train mode, the
                      noise depends on the seed and the epoch alone, so it is the same for every estimator.
    scheduler         its step() is called after every epoch
    checkpoint_every  in steps; None: after every epoch.  The last step is always saved.
    keep              how many checkpoints are kept, the newest
    cuda_graph        replay the step as a CUDA graph: same weights, without the time that a processor takes to launch its
                      kernels.  For models on a GPU whose step reads no value on the host; see `cuda_graphs.Graphed`.
    progress          (steps done, steps in all, text), a few times a second
    on_epoch          (record, seconds of its steps), for epochs trained by this call

    Step k draws all its noise from `noise.step_seed(seed, k)`, and its batch from a permutation that depends
    on the seed and the epoch; noise follows the examples (`noise.examples`).  So nothing of any generator
    needs saving.

    Raises      ValueError for arguments that make no sense or, resuming, differ from the run's;
                FileExistsError for a run that has a checkpoint, without `resume`; FloatingPointError naming
                step and seed for a loss or parameter that is not finite; OSError when a checkpoint cannot be
                written; CorruptCheckpoint.
    """
    (x, y), examples = train, len(train[0])
    _check(x, y, epochs, batch_size, seed, checkpoint_every, keep, run, resume)
    if cuda_graph and x.device.type != "cuda":
        raise ValueError(f"cuda_graph is set for data on {x.device}: it needs model and data on a GPU; leave it out elsewhere")
    per_epoch = math.ceil(examples / batch_size)
    last = epochs * per_epoch
    plan = {"batch_size": batch_size, "examples": examples, "seed": seed}
    parts = {"model": model, "optimizer": optimizer, "estimator": estimator, "scheduler": scheduler}
    parts = {name: part for name, part in parts.items() if hasattr(part, "state_dict")}
    tally = Tally(seed)
    step, records = restore(run, parts, plan, tally, last) if run and resume else (0, [])

    update = _update_of(model, estimator, optimizer, cost, x, y)
    graphed = Graphed(lambda ids: (update(ids),)) if cuda_graph else None

    with postponed(run is not None) as stop:
        while step < last:
            epoch, began, first = step // per_epoch, time.perf_counter(), step
            order = _order(seed, epoch, examples).to(x.device)
            model.train()
            for ids in order[step % per_epoch * batch_size :].split(batch_size):
                _reseed(noise.step_seed(seed, step), x)
                try:
                    loss: Any = update(ids) if graphed is None else graphed(ids)[0]
                except FloatingPointError as failure:
                    raise FloatingPointError(f"{failure} (step {step}, seed {seed})") from failure
                tally.add(loss if graphed is None else loss.clone(), len(ids), step)
                step += 1
                ends, stopping = step % per_epoch == 0, stop.signum
                due = ends if checkpoint_every is None else step % checkpoint_every == 0
                saves = run is not None and (due or step == last or stopping != 0)
                if ends or saves or tally.is_due():
                    tally.settle()
                    if progress:
                        progress(step, last, f"epoch {epoch + 1}/{epochs}  loss {tally.mean():.4g}")
                if ends or saves:
                    check_parameters(model, step, seed)
                if ends:
                    seconds = time.perf_counter() - began
                    if scheduler is not None:
                        scheduler.step()
                        if graphed is not None:
                            graphed.reset()
                    record = {"epoch": epoch + 1, "step": step, "train_loss": tally.mean()}
                    _reseed(noise.step_seed(noise.step_seed(seed, 1), epoch), x)
                    record = clean(record | _evaluate(evaluate, model, record))
                    tally.reset()
                    records.append(record)
                    if run:
                        run.metrics.append(record)
                        timing = {"epoch": epoch + 1, "step": step, "steps": step - first, "seconds": seconds}
                        run.timing.append(timing)
                if run and saves:
                    save(run, parts, plan, tally, step, len(records), keep)
                if ends and on_epoch:
                    on_epoch(record, seconds)
                if stopping:
                    raise Interrupted(stopping, step)
        if stop.signum:
            raise Interrupted(stop.signum, step)
    return records


def _update_of(
    model: nn.Module,
    estimator: Callable[[Callable[[], Tensor]], Tensor],
    optimizer: torch.optim.Optimizer,
    cost: Callable[[nn.Module, Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
) -> Callable[[Tensor], Tensor]:
    """One update on the examples `ids`, as a function of them; it gives the loss, whose value nobody has waited for yet."""

    def update(ids: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with noise.examples(ids):
            xb, yb = x[ids], y[ids]
            loss = estimator(lambda: cost(model, xb, yb))
            loss.backward()
        optimizer.step()
        return loss.detach()

    return update


def _reseed(seed: int, x: Tensor) -> None:
    # torch.manual_seed takes 80 us, for the sake of devices that a model on the CPU does not use.
    (torch.default_generator.manual_seed if x.device.type == "cpu" else torch.manual_seed)(seed)


def _order(seed: int, epoch: int, examples: int) -> Tensor:
    """The permutation of an epoch.  Seeded twice over, so that it shares its stream with no step."""
    generator = torch.Generator().manual_seed(noise.step_seed(noise.step_seed(seed, 0), epoch))
    return torch.randperm(examples, generator=generator)


def _evaluate(evaluate: Callable[[], dict[str, float]] | None, model: nn.Module, record: dict[str, Any]) -> dict:
    values = dict(evaluate()) if evaluate else {}
    if taken := sorted(values.keys() & record.keys()):
        raise ValueError(f"evaluate() returned {taken}, which the loop records itself; choose other names")
    model.train()  # evaluate may have switched to eval mode; a resumed run would not know
    return values


def _check(
    x: Tensor,
    y: Tensor,
    epochs: int,
    batch_size: int,
    seed: int,
    every: int | None,
    keep: int,
    run: Any,
    resume: bool,
) -> None:
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"train has {len(x)} inputs and {len(y)} targets; pass equally many, at least one")
    for name, value, least in (
        ("epochs", epochs, 0),
        ("batch_size", batch_size, 1),
        ("checkpoint_every", every, 1),
        ("keep", keep, 1),
    ):
        if not (value is None and name == "checkpoint_every") and (type(value) is not int or value < least):
            raise ValueError(f"{name} is {value!r}; it must be an integer of at least {least}")
    if type(seed) is not int:
        raise ValueError(f"seed is {seed!r}; it must be an integer")
    if resume and run is None:
        raise ValueError("resume=True needs the run to resume: pass run=RunFolder.open(path)")
    if run is not None and not run.writable:
        raise ValueError(f"{run.path} is closed or was opened read-only; open it with RunFolder.open(path)")
    if run is not None and not resume and (run.checkpoints.exists() or run.records()):
        raise FileExistsError(f"{run.path} has a run in it; pass resume=True, or RunFolder.create(..., overwrite=True)")
