"""The models of `spurious-modes`: denoising auto-encoders trained in several ways, and the data's own E[x | x~]."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from dither import reconstruction
from dither.corruption import Gaussian, Mixture
from dither.experiments.spurious_modes.config import METHODS, Config, Way
from dither.models.dae import DAE, Geometric

GRID = 2000  # points of the curve


@cache
def curve() -> Tensor:
    """A spiral of one and a quarter turns, at equal steps of its length: (GRID, 2) float64."""
    t = torch.linspace(0, 1, 20 * GRID, dtype=torch.float64, device="cpu")
    angle, radius = 2 * math.pi * (0.25 + 1.25 * t), 0.35 + 0.85 * t
    points = torch.stack((radius * angle.cos(), radius * angle.sin()), 1)
    length = (points[1:] - points[:-1]).norm(dim=1).cumsum(0)
    return points[torch.searchsorted(length, length[-1] * torch.linspace(0, 1, GRID, dtype=torch.float64, device="cpu"))]


def data(config: Config, seed: int) -> Tensor:
    """(examples, 2): uniform along the curve, and noise."""
    generator = torch.Generator().manual_seed(seed)
    points = curve()
    at = torch.randint(len(points), (config.examples,), generator=generator, dtype=torch.int64, device="cpu")
    noise = torch.randn(config.examples, 2, generator=generator, dtype=points.dtype, device="cpu")
    return (points[at] + config.noise * noise).float()


def learn(config: Config, method: str, corruption: float, x: Tensor) -> DAE:
    """A DAE of 2 units for each seed, side by side.

    Whatever it was trained on, its chain corrupts by the smallest noise scale.
    """
    way, exact = METHODS[method], method == "exact"
    smallest, *others = (Gaussian(corruption * scale) for scale in way.scales)
    corrupt = Mixture([smallest, *others]) if others else smallest
    scale = None if config.learned_scale and not exact else best_scale(config, corruption)
    network = Exact(config, corruption) if exact else Networks(config, outputs=2 if scale else 4)
    steps = Geometric(way.walk) if way.walk < 1 else int(way.walk)
    model = DAE(network, 2 * config.seeds, corruption=corrupt, reconstruction=reconstruction.Gaussian(scale), steps=steps)
    if not exact:
        _train(config, way, model, x)
    model.corruption = smallest
    return model


def best_scale(config: Config, corruption: float) -> float:
    """The reconstruction's standard deviation where the curve is a straight line.

    Across the line the posterior has a variance of its own, along it that of the corruption.
    """
    across = 1 / (1 / corruption**2 + 1 / config.noise**2)
    return math.sqrt((across + corruption**2) / 2)


def _train(config: Config, way: Way, model: DAE, x: Tensor) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.updates * way.updates)
    for _ in range(config.updates * way.updates):
        rows = torch.randint(len(x), (int(config.batch * way.batches), config.seeds), dtype=torch.int64, device="cpu")
        optimizer.zero_grad()
        model.cost(x[rows].flatten(1)).mean().backward()
        optimizer.step()
        schedule.step()


class Networks(nn.Module):
    """2 - hidden - hidden - outputs for each seed, that share nothing: (batch, 2 seeds) -> (batch, outputs seeds)."""

    def __init__(self, config: Config, outputs: int) -> None:
        super().__init__()
        self.gain, self.activation = config.gain, torch.relu if config.activation == "relu" else torch.tanh
        sizes, each = (2, config.hidden, config.hidden, outputs), []
        for seed in range(config.seeds):
            torch.manual_seed(seed)
            each.append([nn.Linear(a, b) for a, b in pairwise(sizes)])
        layers = list(zip(*each, strict=True))
        self.weights = nn.ParameterList(torch.stack([one.weight.detach().T for one in layer]) for layer in layers)
        biases = (torch.stack([one.bias.detach() for one in layer]).unsqueeze(1) for layer in layers)
        self.biases = nn.ParameterList(biases)

    def forward(self, x: Tensor) -> Tensor:
        h = self.gain * x.unflatten(1, (-1, 2)).transpose(0, 1)
        for depth, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, self.activation(h) if depth else h, weight)
        return h.unflatten(2, (-1, 2)).permute(1, 2, 0, 3).flatten(1)  # all means, then all log scales


class Exact(nn.Module):
    """E[x | x~] of the data: the posterior's mean point of the curve, and the share of the rest that is their noise."""

    def __init__(self, config: Config, corruption: float) -> None:
        super().__init__()
        self.seeds, self.noise, self.variance = config.seeds, config.noise, config.noise**2 + corruption**2

    def forward(self, x: Tensor) -> Tensor:
        points = curve()
        x = x.unflatten(1, (self.seeds, 2)).flatten(0, 1).double()
        mean = torch.softmax(torch.cdist(x, points).square() / (-2 * self.variance), 1) @ points
        expected = mean + self.noise**2 / self.variance * (x - mean)
        return expected.float().unflatten(0, (-1, self.seeds)).flatten(1)
