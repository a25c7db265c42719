"""The training of a denoising model as a run folder that is resumed, and the model that a run has left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dither import files
from dither.experiments.denoising import recipes
from dither.experiments.denoising.recipes import Model
from dither.tables import Progress, Row
from dither.training import checkpoint
from dither.training.loop import fit
from dither.training.run_folder import RunFolder
from dither.training.state import unpack

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Options:
    """How a method is trained, whatever the method. width: of every hidden layer; None: the recipe's."""

    seed: int
    epochs: int
    width: int | None = None
    batch_size: int = 100
    precision: str = "float32"
    keep: int = 1  # checkpoints, the newest

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; it must be {' or '.join(PRECISIONS)}")


@dataclass(frozen=True)
class Trained:
    """A model, the record of each epoch of its training, and the seconds that it took."""

    model: Model
    records: list[Row]
    seconds: float


def train(method: str, x: Tensor, path: Path, data: str, options: Options, progress: Progress = print) -> Trained:
    """Train, or go on from the newest checkpoint in the run folder `path`.

    On the device of x (examples, units); on a GPU the steps are CUDA graphs. data: a name for x, kept with the run.
    """
    recipe = recipes.recipe_of(method)
    model, optimizer, scheduler = recipes.build(method, x.shape[1], options.width, options.seed, x.device)
    settings = {"method": method, "seed": options.seed, "width": options.width or recipe.width}
    settings |= {"batch_size": options.batch_size, "data": data, "units": x.shape[1]}
    settings |= {"precision": options.precision, "examples": len(x)}
    x = (x > 0.5).to(x.dtype) if recipe.binary else x
    examples = (x, torch.zeros(len(x), dtype=torch.int64, device=x.device))

    def on_epoch(record: Row, seconds: float) -> None:
        epoch, loss = record["epoch"], record["train_loss"]
        progress(f"{method} seed {options.seed}, epoch {epoch}: {loss:.1f} nats, {seconds:.0f} s")

    with RunFolder.of(path, settings) as run:
        records = fit(
            model, mean_cost, optimizer, cost_of(options), examples, epochs=options.epochs, batch_size=options.batch_size,
            seed=options.seed, run=run, resume=True, scheduler=scheduler, keep=options.keep,
            cuda_graph=x.device.type == "cuda", on_epoch=on_epoch,
        )  # fmt: skip
        return Trained(model, records, sum(row["seconds"] for row in run.timings()))


def cost_of(options: Options) -> Callable[[torch.nn.Module, Tensor, Tensor], Tensor]:
    """The cost per example, under autocast where the options ask for it."""

    def cost(model: torch.nn.Module, x: Tensor, _: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
            return model.cost(x)  # type: ignore[operator]

    return cost


def mean_cost(closure: Callable[[], Tensor]) -> Tensor:
    """No estimator: the noise of these models is such that back-propagation is right, or straight-through is wanted."""
    return closure().mean()


def saved_steps(path: Path) -> list[int]:
    """The steps whose checkpoints a run has kept."""
    return checkpoint.steps(path / "checkpoints")


def load(path: Path, step: int | None = None, device: torch.device | str = "cpu") -> Model:
    """The model of the run in `path`, at its newest checkpoint or at that of `step`, on a device.

    Raises      FileNotFoundError, CorruptCheckpoint; ValueError for a run of another kind.
    """
    settings = files.read_json(path / "config.json")
    if not {"method", "units", "width"} <= settings.keys():
        raise ValueError(f"{path} is no run of a denoising model: dither experiment gsn-digits makes some")
    stored = checkpoint.load(path / "checkpoints", step=step)
    model = recipes.build(settings["method"], settings["units"], settings["width"], 0, device)[0]
    model.load_state_dict(unpack(stored.tensors, stored.meta["state"]["model"]))
    return model
