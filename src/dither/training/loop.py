"""Training by epochs: a model, an estimator, an optimizer and examples in, one record per epoch out.

The loop itself, which counts steps, is in `steps`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dither import noise
from dither.cuda_graphs import Graphed
from dither.training.batches import Batches
from dither.training.run_folder import RunFolder
from dither.training.steps import Loop, Plan, Record, Task, reseed

EVALUATIONS = 1  # the stream of seeds of evaluations
Estimate = Callable[[Callable[[], Tensor]], Tensor]
Cost = Callable[[nn.Module, Tensor, Tensor], Tensor]


def fit(
    model: nn.Module,
    estimator: Estimate,
    optimizer: torch.optim.Optimizer,
    cost: Cost,
    train: tuple[Tensor, Tensor],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    run: RunFolder | None = None,
    resume: bool = False,
    evaluate: Callable[[], dict[str, float]] | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    checkpoint_every: int | None = None,
    keep: int = 2,
    cuda_graph: bool = False,
    progress: Callable[[int, int, str], object] | None = None,
    on_epoch: Callable[[Record, float], object] | None = None,
) -> list[Record]:
    """Train `model`, and return one record per epoch: epoch, step, train_loss, and what `evaluate` returned.

    cost              (model, x, y) -> cost of each example, (batch,) or (batch, terms)
    train             (x, y), the examples along the first dimension, on the model's device
    run               where to log and checkpoint; SIGINT and SIGTERM then checkpoint and raise `Interrupted`
    resume            continue from the newest checkpoint of `run`, or start if it has none; a finished run
                      returns its records at once. Weights and metrics.jsonl are bit-identical to those of an
                      uninterrupted run.
    evaluate          called after every epoch; its numbers join the record. The model is in train mode, the
                      noise depends on the seed and the epoch alone, so it is the same for every estimator.
    scheduler         its step() is called after every epoch
    checkpoint_every  in steps; None: after every epoch. The last step is always saved.
    keep              how many checkpoints stay, the newest
    cuda_graph        replay the step as a CUDA graph: same weights, without the time that a processor takes to launch its
                      kernels. For models on a GPU whose step reads no value on the host; see `cuda_graphs.Graphed`.
    progress          (steps done, steps in all, text), a few times a second
    on_epoch          (record, seconds of its steps), for epochs trained by this call

    Step k takes all its noise from `noise.step_seed(seed, k)`, and its batch from a permutation that depends
    on the seed and the epoch; noise follows the examples (`noise.examples`). So nothing of any generator
    needs saving.

    Raises      ValueError for arguments that make no sense or, resuming, differ from the run's;
                FileExistsError for a run that has a checkpoint, without `resume`; FloatingPointError naming
                step and seed for a loss or parameter that is not finite; OSError when a checkpoint cannot be
                written; CorruptCheckpoint.
    """
    x, y = train
    _check_numbers(x, y, epochs, batch_size, seed, checkpoint_every, keep)
    _check_run(run, resume)
    batches = Batches(len(x), batch_size, seed, device=x.device)
    update = _Update(model, estimator, optimizer, cost, x, y, cuda_graph)
    epoch = _Epoch(model, batches, update, scheduler, evaluate)
    each, last = batches.per_epoch, epochs * batches.per_epoch

    def report(step: int, loss: float) -> None:
        if progress:
            progress(step, last, f"epoch {epoch.number}/{epochs}  loss {loss:.4g}")

    task = Task(batches, update, epoch.record, epoch.begin, on_epoch, report)
    plan = Plan(seed, last, record_every=each, save_every=checkpoint_every or each, keep=keep, unit="epoch")
    parts = {"optimizer": optimizer, "estimator": estimator, "scheduler": scheduler}
    return Loop(model, parts, task, plan, run, resume=resume, identity=batches.identity, device=x.device).train()


class _Update:
    """One update on the examples `ids`, as a function of them; it gives the loss, whose value nobody has waited for yet."""

    def __init__(
        self,
        model: nn.Module,
        estimator: Estimate,
        optimizer: torch.optim.Optimizer,
        cost: Cost,
        x: Tensor,
        y: Tensor,
        cuda_graph: bool,
    ) -> None:
        self.model, self.estimator, self.optimizer, self.cost, self.x, self.y = model, estimator, optimizer, cost, x, y
        if cuda_graph and x.device.type != "cuda":
            raise ValueError(
                f"cuda_graph is set for data on {x.device}: it needs model and data on a GPU; leave it out elsewhere"
            )
        self.graphed = Graphed(lambda ids: (self._eager(ids),)) if cuda_graph else None

    def __call__(self, ids: Tensor) -> Tensor:
        if self.graphed is None:
            return self._eager(ids)
        (loss,) = self.graphed(ids)
        assert loss is not None
        return loss.clone()  # the next replay overwrites it

    def _eager(self, ids: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with noise.examples(ids):
            x, y = self.x[ids], self.y[ids]
            loss = self.estimator(lambda: self.cost(self.model, x, y))
            loss.backward()
        self.optimizer.step()
        return loss.detach()

    def forget(self) -> None:
        """Forget what was recorded: a number that it holds, such as the learning rate, has changed."""
        if self.graphed is not None:
            self.graphed.reset()


class _Epoch:
    """What happens at the ends of an epoch; `number` counts from 1."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        update: _Update,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None,
        evaluate: Callable[[], dict[str, float]] | None,
    ) -> None:
        self.model, self.batches, self.update, self.scheduler, self.evaluate = model, batches, update, scheduler, evaluate
        self.number = 0

    def begin(self, step: int) -> None:
        number = step // self.batches.per_epoch + 1
        if number != self.number:
            self.number = number
            self.model.train()

    def record(self, step: int, loss: float) -> Record:
        if self.scheduler is not None:
            self.scheduler.step()
            self.update.forget()
        record = {"epoch": self.number, "step": step, "train_loss": loss}
        reseed(noise.step_seed(noise.step_seed(self.batches.seed, EVALUATIONS), self.number - 1), self.batches.device)
        values = dict(self.evaluate()) if self.evaluate else {}
        if taken := sorted(values.keys() & record.keys()):
            raise ValueError(f"evaluate() returned {taken}, which the loop records itself; choose other names")
        self.model.train()  # evaluate may have switched to eval mode; a resumed run would not know
        return record | values


def _check_numbers(
    x: Tensor, y: Tensor, epochs: int, batch_size: int, seed: int, checkpoint_every: int | None, keep: int
) -> None:
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"train has {len(x)} inputs and {len(y)} targets; pass equally many, at least one")
    for name, value, smallest in (
        ("epochs", epochs, 0),
        ("batch_size", batch_size, 1),
        ("checkpoint_every", 1 if checkpoint_every is None else checkpoint_every, 1),
        ("keep", keep, 1),
    ):
        if type(value) is not int or value < smallest:
            raise ValueError(f"{name} is {value!r}; it must be an integer of at least {smallest}")
    if type(seed) is not int:
        raise ValueError(f"seed is {seed!r}; it must be an integer")


def _check_run(run: RunFolder | None, resume: bool) -> None:
    if resume and run is None:
        raise ValueError("resume=True needs the run to resume: pass run=RunFolder.open(path)")
    if run is not None and not run.writable:
        raise ValueError(f"{run.path} is closed or was opened read-only; open it with RunFolder.open(path)")
    if run is not None and not resume and (run.checkpoints.exists() or run.records()):
        raise FileExistsError(f"{run.path} has a run in it; pass resume=True, or RunFolder.create(..., overwrite=True)")
