"""The denoising models of the papers by their authors' recipes, and ours: how each is built and trained.

The recipes were read in the authors' code, where it differs from the papers (docs/experiments/gsn-mnist.md lists how): the loss
is averaged over pixels, so that their learning rates are divided by the number of pixels here, where costs are in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dither import corruption, files, nodes, reconstruction
from dither.experiments._vae import open_run
from dither.models import gsn
from dither.models.dae import DAE
from dither.training import checkpoint
from dither.training.loop import fit
from dither.training.state import unpack

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """A model and how to train it. lr: of a loss averaged over pixels for SGD; as it is for Adam."""

    build: Callable[[int, int], Any]  # (units, width) -> model
    width: int
    lr: float
    momentum: float = 0.0
    annealing: float = 1.0
    binary: bool = False  # trained on thresholded data
    adam: bool = False


def _dae(steps: int) -> Callable[[int, int], Any]:
    return lambda units, width: gsn.GSN((units, width), [nn.Sigmoid()], steps=steps)


def _gsn(depth: int, steps: int) -> Callable[[int, int], Any]:
    return lambda units, width: gsn.GSN((units, *[width] * depth), steps=steps)


def _mixture(noise: float, rate: float) -> Callable[[int, int], Any]:
    """A binary code above rectifiers, weights of its own downwards, and four modes for what is drawn from it."""

    def build(units: int, width: int) -> Any:
        hidden = [nodes.NoisyReLU(noise) if noise else nn.ReLU(), nodes.Bernoulli((-1, 1))]
        modes, corrupt = reconstruction.Mixture(reconstruction.Bernoulli(), 4), corruption.SaltAndPepper(rate)
        return gsn.GSN((units, width, width // 4), hidden, corrupt, modes, tied=False, steps=4)

    return build


def _levels(
    corrupt: Callable[[float], corruption.Corruption], often: dict[float, float], component: Any
) -> Callable[[int, int], Any]:
    """Two noisy layers, eight modes, and corruption of several strengths, from which no walkback is needed."""

    def build(units: int, width: int) -> Any:
        strengths = corruption.Mixture([corrupt(strength) for strength in often], list(often.values()))
        family = reconstruction.Mixture(component, 8)
        widths = [units, width, width]
        hidden = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nodes.NoisyReLU(0.5))]
        return DAE(nn.Sequential(*hidden, nn.Linear(width, family.outputs(units))), units, strengths, family)

    return build


# How strong, and how often.
SALT_AND_PEPPER = {0.2: 0.4, 0.4: 0.3, 0.6: 0.2, 0.8: 0.1}
DEVIATIONS = {0.1: 0.4, 0.2: 0.3, 0.4: 0.2, 0.8: 0.1}

RECIPES = {
    "dae": Recipe(_dae(1), 2000, lr=10, binary=True),
    "dae-walkback": Recipe(_dae(5), 2000, lr=10, binary=True),
    "gsn-1": Recipe(_gsn(1, 4), 1500, 0.25, 0.5, 0.995),
    "gsn-2": Recipe(_gsn(2, 4), 1500, 0.25, 0.5, 0.995),
    "gsn-3": Recipe(_gsn(3, 6), 1500, 0.25, 0.5, 0.995),
    "dae-levels": Recipe(
        _levels(corruption.SaltAndPepper, SALT_AND_PEPPER, reconstruction.Bernoulli()), 1000, 1e-3, annealing=0.85, adam=True
    ),
    "dae-levels-grey": Recipe(
        _levels(corruption.Gaussian, DEVIATIONS, reconstruction.Gaussian(0.1)), 1000, 1e-3, annealing=0.95, adam=True
    ),
    "gsn-mixture": Recipe(_mixture(0, 0.4), 800, 1e-3, annealing=0.9, adam=True),
    "gsn-mixture-noisy": Recipe(_mixture(1.0, 0.55), 800, 1e-3, annealing=0.8, adam=True),
}


def recipe_of(method: str) -> Recipe:
    if method not in RECIPES:
        raise ValueError(f"there is no method {method!r}; choose among {', '.join(RECIPES)}")
    return RECIPES[method]


def make(
    method: str, units: int, width: int | None, seed: int, device: torch.device | str = "cpu"
) -> tuple[Any, torch.optim.Optimizer, Any]:
    """(model, optimizer, scheduler) of a method, the first parameters drawn from the seed."""
    recipe, device = recipe_of(method), torch.device(device)
    torch.manual_seed(seed)
    model = recipe.build(units, width or recipe.width).to(device)
    if recipe.adam:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(
            model.parameters(), recipe.lr, fused=True, capturable=device.type == "cuda"
        )
    else:
        optimizer = sgd(model, recipe.lr / units, recipe.momentum)
    return model, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, recipe.annealing)


def sgd(model: nn.Module, lr: float, momentum: float) -> torch.optim.SGD:
    """m <- momentum m + (1 - momentum) gradient, from m = 0; w <- w - lr m."""
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum, dampening=momentum, fused=True)
    if momentum:
        for p in model.parameters():  # torch starts from the first gradient instead
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def train(
    method: str,
    x: Tensor,
    path: Path,
    *,
    data: str,
    seed: int,
    epochs: int,
    width: int | None = None,
    batch_size: int = 100,
    precision: str = "float32",
    keep: int = 1,
    progress: Callable[[str], None] = print,
) -> tuple[Any, list[dict[str, Any]], float]:
    """Train, or go on from the newest checkpoint in the run folder `path`: (model, records, seconds of training).

    On the device of x (examples, units); on a GPU the steps are CUDA graphs.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; choose {' or '.join(PRECISIONS)}")
    model, optimizer, scheduler = make(method, x.shape[1], width, seed, x.device)
    settings = {"method": method, "seed": seed, "width": width or recipe_of(method).width, "batch_size": batch_size}
    settings |= {"data": data, "units": x.shape[1]}
    x = (x > 0.5).to(x.dtype) if recipe_of(method).binary else x

    def cost(model: Any, x: Tensor, _: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return model.cost(x)

    with open_run(path, settings | {"precision": precision, "examples": len(x)}) as run:
        records = fit(
            model,
            _mean,
            optimizer,
            cost,
            (x, torch.zeros(len(x), dtype=torch.int64, device=x.device)),
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            run=run,
            resume=True,
            scheduler=scheduler,
            keep=keep,
            cuda_graph=x.device.type == "cuda",
            on_epoch=lambda record, seconds: progress(
                f"{method} seed {seed}, epoch {record['epoch']}: {record['train_loss']:.1f} nats, {seconds:.0f} s"
            ),
        )
        seconds = sum(row["seconds"] for row in run.timings())
    return model, records, seconds


def _mean(closure: Callable[[], Tensor]) -> Tensor:
    """No estimator: the noise of these models is such that back-propagation is right, or straight-through is wanted."""
    return closure().mean()


def saved_steps(path: Path) -> list[int]:
    """The steps whose checkpoints a run has kept."""
    return checkpoint.steps(path / "checkpoints")


def load(path: Path, step: int | None = None, device: torch.device | str = "cpu") -> Any:
    """The model of the run in `path`, at its newest checkpoint or at that of `step`, on a device.

    Raises      FileNotFoundError, CorruptCheckpoint; ValueError for a run of another kind.
    """
    settings = files.read_json(path / "config.json")
    if not {"method", "units", "width"} <= settings.keys():
        raise ValueError(f"{path} is no run of a denoising model: dither experiment gsn-digits makes some")
    stored = checkpoint.load(path / "checkpoints", step=step)
    model = make(settings["method"], settings["units"], settings["width"], 0, device)[0]
    model.load_state_dict(unpack(stored.tensors, stored.meta["state"]["model"]))
    return model
