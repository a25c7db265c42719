"""From a run's configuration to its objects: what `train` trains and what `audit` rebuilds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from dither import methods
from dither.cli.errors import UsageError
from dither.cli.names import MODELS, DataName, ModelName, build
from dither.cli.names import check as check_estimator

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dither.estimators import Estimator

    Part = tuple[Tensor, Tensor]  # (x, y), on the device

ESTIMATORS = f"One of {', '.join(methods.names())}; arguments follow a colon, as in score-function:leave-one-out,samples=10."


@dataclass(frozen=True)
class TrainConfig:
    """What defines a training run; the same configuration gives the same weights."""

    model: ModelName = "mlp"
    """The network: mlp has layers of binary stochastic units."""
    data: DataName = "digits"
    """The data set; digits comes with the library."""
    estimator: Annotated[str, arg(help=f"How the gradient is estimated; deterministic trains without noise. {ESTIMATORS}")] = (
        "score-function:optimal"
    )
    samples: int = 10
    """Samples per example and step."""
    hidden: tuple[int, ...] = (200, 200)
    """Units of each hidden layer."""
    gain: float = 20.0
    """Scale of the initial weights, in torch's own; above 1 units start almost certain."""
    epochs: int = 180
    """Passes over the training data."""
    batch_size: int = 64
    """Examples per step."""
    lr: float = 0.01
    """Adam's learning rate; it falls linearly to zero."""
    seed: int = 0
    """Governs weights, order of the data and all noise."""
    threads: int = 1
    """CPU threads, part of what fixes the result; 0 leaves them to torch."""
    device: str = "cpu"
    """Where to compute, such as cpu or cuda."""
    data_dir: Path | None = None
    """Folder of the data files; default $DITHER_DATA, then the user's cache."""
    checkpoint_every: int = 0
    """Steps from one checkpoint to the next; 0: one after every epoch."""
    keep: int = 2
    """How many checkpoints are kept, the newest."""


# May differ when a run is resumed: they say where, not what.
PLACES = ("device", "data_dir", "checkpoint_every", "keep")


@dataclass
class Setup:
    """A configuration's objects."""

    config: TrainConfig
    model: nn.Module
    train: Part
    valid: Part
    test: Part

    def estimator(self) -> Estimator:
        """The one that the configuration names. Its lazy parameters have learned their sizes from a first call."""
        import torch
        from torch.nn.parameter import UninitializedParameter

        estimator = build(self.config.estimator, self.model, self.config.samples)
        if any(isinstance(p, UninitializedParameter) for p in estimator.parameters()):
            x, y = (part[:2] for part in self.train)
            with torch.random.fork_rng(), estimator.frozen():
                estimator(lambda: cost(self.model, x, y))
        return estimator

    def accuracy(self, part: Part, samples: int, key: int | None = None) -> float:
        """The share of examples that the mean of `samples` predictions classifies right.

        `key` seeds the noise: the same weights and key give the same figure, before and after resuming. Without it the
        caller has seeded torch, as `fit` does before it evaluates.
        """
        import torch

        import dither

        x, y = part
        if key is not None:
            torch.manual_seed(dither.noise.step_seed(dither.noise.step_seed(self.config.seed, key), samples))
        self.model.eval()  # no change for a stochastic node, but for layers such as dropout
        with torch.no_grad():
            if self.config.estimator.partition(":")[0] == "deterministic":
                with dither.deterministic("mean"):
                    votes = self.model(x)
            else:
                votes = torch.stack([self.model(x).softmax(1) for _ in range(samples)]).mean(0)
        return float((votes.argmax(1) == y).double().mean())


def cost(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy per example, (batch,)."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(model(x), y, reduction="none")


def setup(config: TrainConfig) -> Setup:
    """Loads the data and builds the model, with weights that depend on the seed alone."""
    import torch

    from dither import data

    check(config)
    device = check_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    dataset = data.load(config.data, config.data_dir)
    torch.manual_seed(config.seed)
    model = MODELS[config.model](dataset.train.x.shape[1], config.hidden, dataset.classes, config.gain).to(device)
    train, valid, test = ((s.x.to(device), s.y.to(device)) for s in (dataset.train, dataset.valid, dataset.test))
    return Setup(config, model, train, valid, test)


def check(config: TrainConfig) -> None:
    """Raises UsageError, naming the flag, for a value that no run can have."""
    for name in ("samples", "epochs", "batch_size", "keep"):
        if getattr(config, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} is {getattr(config, name)}, it must be at least 1")
    if not config.hidden or min(config.hidden) < 1:
        raise UsageError(f"--hidden is {list(config.hidden)}: give one or more positive widths, such as --hidden 200 200")
    for name in ("lr", "gain"):
        if not 0 < getattr(config, name) < 1e30:  # a float32 holds what is made of it
            raise UsageError(f"--{name} is {getattr(config, name)}, it must be a positive number below 1e30")
    if config.threads < 0:
        raise UsageError(f"--threads is {config.threads}, it must be 0 (torch decides) or more")
    if config.checkpoint_every < 0:
        raise UsageError(f"--checkpoint-every is {config.checkpoint_every}, it must be 0 (every epoch) or more steps")
    check_estimator(config.estimator)
    if config.estimator.partition(":")[0] == "auto" and "evaluations" not in config.estimator:
        raise UsageError("--estimator auto chooses by time, so the same seed could give other weights: give auto:evaluations")
    if methods.fewest_samples(config.estimator) and config.samples != (
        enough := methods.enough_samples(config.estimator, config.samples)
    ):
        pairs = "" if config.samples < enough - 1 or config.samples == 1 else ", an even number"
        raise UsageError(f"--estimator {config.estimator} compares samples: give --samples {enough} or more{pairs}")


def check_device(name: str) -> torch.device:
    """The torch device called `name`. Raises UsageError where this machine has none."""
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device, dtype=torch.float32)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name} cannot be used ({reason}); use --device cpu") from None
    return device
