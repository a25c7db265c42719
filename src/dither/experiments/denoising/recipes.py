"""The denoising models of the papers by their authors' recipes, and ours: how each is built and optimized.

The recipes were read in the authors' code, where it differs from the papers (docs/experiments/gsn-mnist.md lists how).
There the loss is averaged over pixels. Costs are in nats here, so the authors' learning rates are divided by the number
of pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

from dither import corruption, nodes, reconstruction
from dither.models.dae import DAE
from dither.models.gsn import GSN

Model = DAE | GSN
Build = Callable[[int, int], Model]  # (units, width) -> model


@dataclass(frozen=True)
class Recipe:
    """A model and how to train it. lr: of a loss averaged over pixels for SGD; as it is for Adam."""

    build: Build
    width: int
    lr: float
    momentum: float = 0.0
    annealing: float = 1.0
    binary: bool = False  # trained on thresholded data
    adam: bool = False


def _dae(steps: int) -> Build:
    return lambda units, width: GSN((units, width), hidden=[nn.Sigmoid()], steps=steps)


def _gsn(depth: int, steps: int) -> Build:
    return lambda units, width: GSN((units, *[width] * depth), steps=steps)


def _mixture(noise: float, rate: float) -> Build:
    """A binary code above rectifiers, weights of its own downwards, and a reconstruction of four modes."""

    def build(units: int, width: int) -> GSN:
        hidden = [nodes.NoisyReLU(scale=noise) if noise else nn.ReLU(), nodes.Bernoulli(values=(-1, 1))]
        modes, corrupt = reconstruction.Mixture(reconstruction.Bernoulli(), 4), corruption.SaltAndPepper(rate)
        return GSN((units, width, width // 4), hidden=hidden, corruption=corrupt, reconstruction=modes, tied=False, steps=4)

    return build


def _multiscale(
    corrupt: Callable[[float], corruption.Corruption],
    weights: dict[float, float],
    component: reconstruction.Reconstruction,
) -> Build:
    """Two noisy layers, eight modes, and corruption of several noise scales, from which no walkback is needed.

    weights: noise scale -> how often it is sampled.
    """

    def build(units: int, width: int) -> DAE:
        scales = corruption.Mixture([corrupt(scale) for scale in weights], list(weights.values()))
        family = reconstruction.Mixture(component, 8)
        widths = [units, width, width]
        hidden = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nodes.NoisyReLU(scale=0.5))]
        return DAE(
            nn.Sequential(*hidden, nn.Linear(width, family.outputs(units))), units, corruption=scales, reconstruction=family
        )

    return build


SALT_AND_PEPPER = {0.2: 0.4, 0.4: 0.3, 0.6: 0.2, 0.8: 0.1}
GAUSSIAN = {0.1: 0.4, 0.2: 0.3, 0.4: 0.2, 0.8: 0.1}
MULTISCALE = _multiscale(corruption.SaltAndPepper, SALT_AND_PEPPER, reconstruction.Bernoulli())
MULTISCALE_GREY = _multiscale(corruption.Gaussian, GAUSSIAN, reconstruction.Gaussian(0.1))

RECIPES = {
    "dae": Recipe(_dae(1), 2000, lr=10, binary=True),
    "dae-walkback": Recipe(_dae(5), 2000, lr=10, binary=True),
    "gsn-1": Recipe(_gsn(1, 4), 1500, 0.25, 0.5, 0.995),
    "gsn-2": Recipe(_gsn(2, 4), 1500, 0.25, 0.5, 0.995),
    "gsn-3": Recipe(_gsn(3, 6), 1500, 0.25, 0.5, 0.995),
    "dae-multiscale": Recipe(MULTISCALE, 1000, 1e-3, annealing=0.85, adam=True),
    "dae-multiscale-grey": Recipe(MULTISCALE_GREY, 1000, 1e-3, annealing=0.95, adam=True),
    "gsn-mixture": Recipe(_mixture(0, 0.4), 800, 1e-3, annealing=0.9, adam=True),
    "gsn-mixture-noisy": Recipe(_mixture(1.0, 0.55), 800, 1e-3, annealing=0.8, adam=True),
}


def recipe_of(method: str) -> Recipe:
    if method not in RECIPES:
        raise ValueError(f"there is no method {method!r}; the methods are {', '.join(RECIPES)}")
    return RECIPES[method]


def build(
    method: str, units: int, width: int | None, seed: int, device: torch.device | str = "cpu"
) -> tuple[Model, torch.optim.Optimizer, ExponentialLR]:
    """(model, optimizer, scheduler) of a method; the seed decides the initial parameters."""
    recipe, device = recipe_of(method), torch.device(device)
    torch.manual_seed(seed)
    model = recipe.build(units, width or recipe.width).to(device)
    if recipe.adam:
        capturable = device.type == "cuda"
        optimizer = torch.optim.Adam(model.parameters(), recipe.lr, fused=True, capturable=capturable)
    else:
        optimizer = sgd(model, recipe.lr / units, recipe.momentum)
    return model, optimizer, ExponentialLR(optimizer, recipe.annealing)


def sgd(model: nn.Module, lr: float, momentum: float) -> torch.optim.SGD:
    """m <- momentum m + (1 - momentum) gradient, from m = 0; w <- w - lr m."""
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum, dampening=momentum, fused=True)
    if momentum:
        for p in model.parameters():  # torch starts from the first gradient instead
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer
