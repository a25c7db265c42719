"""The models of `spurious_modes`: denoising auto-encoders trained in several ways, and the data's own E[x | x~]."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

PAIRS = 5  # of (x, x~) for each example of the smallest batch
# method -> (steps of a walk or its p, times the batch, times the updates, strengths of noise: times the weakest, equally often)
METHODS: dict[str, tuple[float, float, int, tuple[int, ...]]] = {
    "plain": (1, 1, 1, (1,)),
    "plain-batch-x5": (1, PAIRS, 1, (1,)),
    "plain-updates-x5": (1, 1, PAIRS, (1,)),
    "levels-x5": (1, PAIRS, 1, (1, 2, 4, 8)),
    "walkback-5": (PAIRS, 1, 1, (1,)),
    "walkback-p.5": (0.5, PAIRS / 2, 1, (1,)),  # two steps in the mean
    "exact": (1, 0, 0, (1,)),
}
GRID = 2000  # points of the curve


@cache
def curve() -> Any:
    """A spiral of one and a quarter turns, at equal steps of its length: (GRID, 2) float64."""
    import torch

    t = torch.linspace(0, 1, 20 * GRID, dtype=torch.float64)
    angle, radius = 2 * math.pi * (0.25 + 1.25 * t), 0.35 + 0.85 * t
    points = torch.stack((radius * angle.cos(), radius * angle.sin()), 1)
    length = (points[1:] - points[:-1]).norm(dim=1).cumsum(0)
    return points[torch.searchsorted(length, length[-1] * torch.linspace(0, 1, GRID, dtype=torch.float64))]


def learn(config: Any, method: str, corruption: float, x: Any) -> Any:
    """A DAE of 2 units for each seed, side by side. Whatever it was trained on, its chain corrupts by the weakest noise."""
    import torch

    from dither import reconstruction
    from dither.corruption import Gaussian, Mixture
    from dither.models.dae import DAE, Geometric

    walk, batches, times, strengths = METHODS[method]
    across = 1 / (1 / corruption**2 + 1 / config.noise**2)  # the posterior's variance across a line; along it: the noise's
    scale = None if config.learned_scale and batches else math.sqrt((across + corruption**2) / 2)
    steps = Geometric(walk) if walk < 1 else int(walk)
    net = network(config, 2 if scale else 4) if batches else exact(config.noise, corruption, config.seeds)
    weakest, *others = (Gaussian(corruption * strength) for strength in strengths)
    corrupt = Mixture([weakest, *others]) if others else weakest
    model = DAE(net, 2 * config.seeds, corrupt, reconstruction.Gaussian(scale), steps)
    if not batches:
        return model
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.updates * times)
    for _ in range(config.updates * times):
        rows = torch.randint(len(x), (int(config.batch * batches), config.seeds))
        optimizer.zero_grad()
        model.cost(x[rows].flatten(1)).mean().backward()
        optimizer.step()
        schedule.step()
    model.corruption = weakest  # that of the chains of all
    return model


def module(forward: Callable[..., Any], parameters: list[Any]) -> Any:
    from torch import nn

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.ParameterList(parameters)

        def forward(self, x: Any) -> Any:
            return forward(x, *self.own)

    return Module()


def network(config: Any, outputs: int) -> Any:
    """2 - hidden - hidden - outputs for each seed, that share nothing: (batch, 2 seeds) -> (batch, outputs seeds)."""
    import torch
    from torch import nn

    sizes, each = (2, config.hidden, config.hidden, outputs), []
    for seed in range(config.seeds):
        torch.manual_seed(seed)
        each.append([nn.Linear(a, b) for a, b in pairwise(sizes)])
    weights = [torch.stack([layer.weight.detach().T for layer in layers]) for layers in zip(*each, strict=True)]
    biases = [torch.stack([layer.bias.detach() for layer in layers]).unsqueeze(1) for layers in zip(*each, strict=True)]

    def forward(x: Any, *own: Any) -> Any:
        h = config.gain * x.unflatten(1, (-1, 2)).transpose(0, 1)
        for depth in range(3):
            h = torch.baddbmm(own[3 + depth], getattr(torch, config.activation)(h) if depth else h, own[depth])
        return h.unflatten(2, (-1, 2)).permute(1, 2, 0, 3).flatten(1)  # all means, then all log scales

    return module(forward, weights + biases)


def exact(noise: float, corruption: float, seeds: int) -> Any:
    """E[x | x~] of the data: the posterior's mean point of the curve, and the share of the rest that is the data's noise."""
    import torch

    points, variance = curve(), noise**2 + corruption**2

    def forward(x: Any) -> Any:
        x = x.unflatten(1, (seeds, 2)).flatten(0, 1).double()
        mean = torch.softmax(torch.cdist(x, points).square() / (-2 * variance), 1) @ points
        return (mean + noise**2 / variance * (x - mean)).float().unflatten(0, (-1, seeds)).flatten(1)

    return module(forward, [])
