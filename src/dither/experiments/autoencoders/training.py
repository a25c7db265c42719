"""The training of an autoencoder as a resumable run folder, counted in steps, as the papers do.

Every pixel may be sampled anew at every step from its grey value. The pixels depend on the seed and the step alone, so all
methods see the same.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from dither import Estimator, noise
from dither.models.vae import BinaryVAE, CategoricalVAE
from dither.tables import Row
from dither.training import checkpoint
from dither.training.batches import Batches
from dither.training.run_folder import RunFolder
from dither.training.state import pack, unpack
from dither.training.steps import Loop, Plan, Task

SAVE_SECONDS = 60.0
PIXELS, FIXED = 2, 3  # streams of seeds, beside those of `dither.training`

Autoencoder = BinaryVAE | CategoricalVAE


@dataclass
class Training:
    """The parts of one training. The estimator's own parameters, if it has any, have an optimizer of their own."""

    model: Autoencoder
    estimator: Estimator
    optimizer: torch.optim.Optimizer
    estimator_optimizer: torch.optim.Optimizer | None = None
    scheduler: LRScheduler | None = None

    @property
    def parts(self) -> dict[str, object]:
        """What a checkpoint holds beside the model."""
        names = ("estimator", "optimizer", "estimator_optimizer", "scheduler")
        return {name: getattr(self, name) for name in names}

    def update(self, x: Tensor) -> Tensor:
        """One step on the images x (batch, pixels); their mean cost before it."""
        optimizers = [optimizer for optimizer in (self.optimizer, self.estimator_optimizer) if optimizer is not None]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = self.estimator(lambda: self.model.cost(x))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        return loss.detach()


class Images:
    """step -> its images (batch, pixels): x with every pixel sampled anew from its grey value, or as they are."""

    def __init__(self, x: Tensor, batch_size: int, seed: int, *, binarised: bool) -> None:
        self.x, self.seed, self.binarised = x, seed, binarised
        self.batches = Batches(len(x), batch_size, seed, drop_last=True)

    def __call__(self, step: int) -> Tensor:
        grey = self.x[self.batches(step)]
        return binarise(grey, noise.step_seed(noise.step_seed(self.seed, PIXELS), step)) if self.binarised else grey


def binarise(grey: Tensor, seed: int) -> Tensor:
    """Each pixel 1 with its grey value as probability, else 0; the same seed gives the same pixels."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(grey.shape, generator=generator, dtype=torch.float32, device="cpu") < grey).to(grey.dtype)


def train(
    run: RunFolder,
    training: Training,
    images: Images,
    *,
    steps: int,
    record_every: int,
    minutes: float | None = None,
    snapshots: Collection[int] = (),
) -> list[Row]:
    """Train to the end, from the newest checkpoint of `run` if it has one.

    Returns a record for every `record_every` steps: step, train_elbo (the mean over the batches of these steps, each
    before its update) and seconds (of training so far). Model and estimator are saved as they are after `snapshots` steps.
    """

    def snapshot(step: int) -> None:
        if step in snapshots:
            save_snapshot(run, training, step)

    task = Task(images, training.update, lambda step, loss: {"step": step, "train_elbo": -loss}, before=snapshot)
    plan = Plan(images.seed, steps, record_every, save_every=record_every, save_seconds=SAVE_SECONDS, minutes=minutes)
    loop = Loop(training.model, training.parts, task, plan, run, resume=True, identity=images.batches.identity)
    loop.train()
    snapshot(loop.step)
    return run.curve()


# --- snapshots ----------------------------------------------------------------------------------------------------------
def save_snapshot(run: RunFolder, training: Training, step: int) -> None:
    tensors, state = {}, {}
    for name, part in (("model", training.model), ("estimator", training.estimator)):
        own, state[name] = pack(part.state_dict(), name)
        tensors |= own
    checkpoint.save(run.path / "snapshots" / str(step), step, tensors, {"state": state})


def load_snapshot(path: Path, step: int, model: Autoencoder, estimator: Estimator | None = None) -> bool:
    """Put model and estimator back as they were after `step` steps of the run in `path`; False if it has no such snapshot."""
    try:
        snapshot = checkpoint.load(path / "snapshots" / str(step))
    except FileNotFoundError:
        return False
    for name, part in (("model", model), ("estimator", estimator)):
        if part is not None:
            part.load_state_dict(unpack(snapshot.tensors, snapshot.meta["state"][name]))
    return True
