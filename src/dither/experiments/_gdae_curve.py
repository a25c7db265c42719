"""Data near a closed curve in R^10, and the chain of a kernel denoiser trained on it (GDAE paper, Fig. 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dither import chains, corruption, metrics
from dither.chains import Denoiser
from dither.chains import KernelConditional as Kernel
from dither.experiments._gdae_spaces import digits

UNITS, MODES, GRID = 10, 3, 20_000
NOISE = 0.01
CORRUPTION = 0.1
UNEVEN = 0.8  # the density of t is 1 + UNEVEN cos 2 pi t
BINS = 50  # of the arc length
WIDTHS_CORRUPTED = (0.1, 0.14, 0.2, 0.28, 0.4)
WIDTHS_X = (0.005, 0.007, 0.01, 0.014, 0.02)
WIDE = (0.3, 0.05)  # of the pairs' x~ and x: too wide for samples, better for energies
PART = "curve in R^10"
SHOWN = 400  # points of each set in the figure
COMPARED = 2000  # points of each set in an MMD


class Curve:
    """x = c(t) + N(0, NOISE^2 I), with t in [0, 1) of density 1 + UNEVEN cos 2 pi t. Each unit of c has three Fourier modes,
    and runs from -1 to 1.5."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        waves = torch.randn(2, MODES, UNITS, generator=generator, dtype=torch.float64)
        t = torch.arange(GRID, dtype=torch.float64) / GRID
        angles = 2 * math.pi * t.unsqueeze(1) * torch.arange(1, MODES + 1)
        waves /= torch.arange(1, MODES + 1).view(1, -1, 1)
        points = angles.cos() @ waves[0] + angles.sin() @ waves[1]
        low, high = points.min(0).values, points.max(0).values
        self.points = -1 + 2.5 * (points - low) / (high - low)
        steps = (self.points.roll(-1, 0) - self.points).norm(dim=1)
        self.length = float(steps.sum())
        self.arc = (steps.cumsum(0) - steps) / steps.sum()  # share of the length, (GRID,)
        self.weights = (1 + UNEVEN * torch.cos(2 * math.pi * t)) / GRID

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        t = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        return self.points[t] + NOISE * torch.randn(count, UNITS, generator=generator, dtype=torch.float64)

    def log_density(self, x: Tensor) -> Tensor:
        """By a sum over the grid, whose step is a tenth of the noise."""
        constant = UNITS / 2 * math.log(2 * math.pi * NOISE**2)
        found = [
            torch.logsumexp(self.weights.log() - block / (2 * NOISE**2), 1)
            for _, block in metrics.squared_distances(x, self.points)
        ]
        return torch.cat(found) - constant

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(distance to the curve, share of the length where it is nearest), each (batch,)."""
        distance, index = metrics.nearest(x, self.points)
        return distance[:, 0], self.arc[index[:, 0]]


@dataclass(frozen=True)
class Study:
    """What was made: the curve, two sets of data, and the kernel of the first with the widths that the second chose."""

    curve: Curve
    train: Tensor
    held_out: Tensor
    kernel: Kernel
    log_likelihood: float


def study(examples: int, choosing: int, seed: int) -> Study:
    """choosing: held-out pairs by which the widths are chosen."""
    curve, generator = Curve(), torch.Generator().manual_seed(seed)
    train, held_out = curve.sample(examples, generator), curve.sample(examples, generator)
    torch.manual_seed(seed)
    corrupt = corruption.Gaussian(CORRUPTION)
    pairs, other = corrupt(train), corrupt(held_out[:choosing])
    kernels = [Kernel(train, pairs, s, b) for s in WIDTHS_CORRUPTED for b in WIDTHS_X]
    found = [float(kernel.log_prob(other, held_out[:choosing]).mean()) for kernel in kernels]
    best = max(range(len(kernels)), key=found.__getitem__)
    return Study(curve, train, held_out, kernels[best], found[best])


def generate(made: Study, start: Tensor, samples: int, burn_in: int, seed: int) -> Tensor:
    """So many samples in all, of a chain from each row of `start`, every fifth step."""
    chain = Denoiser(corruption.Gaussian(CORRUPTION), made.kernel)
    kept = -(-samples // len(start))
    found = chains.run(chain, start, 5 * kept, burn_in=burn_in, thin=5, seed=seed)
    return found.x.flatten(0, 1)[:samples]


def judged(made: Study, name: str, x: Tensor) -> Iterator[dict[str, Any]]:
    """Rows: distance to the curve, and how far the density along it and the distribution are from the held-out data's."""
    head = {"part": PART, "method": name}
    distance, arc = made.curve.nearest(x)
    yield head | {"measure": "mean distance to the curve", "value": digits(float(distance.mean()))}
    if name == "held out":
        return
    _, other = made.curve.nearest(made.held_out)
    shares = [torch.histc(a, BINS, 0, 1) / len(a) for a in (arc, other)]
    yield head | {"measure": "TV(arc length, held out)", "value": digits(float((shares[0] - shares[1]).abs().sum() / 2), 3)}
    squared = metrics.mmd(x[_some(x)], made.held_out[:COMPARED]).squared
    yield head | {"measure": "MMD^2 to held out", "value": digits(squared, 2)}


def _some(x: Tensor) -> Tensor:
    """Rows spread evenly over all, so that every part of every chain counts."""
    return torch.linspace(0, len(x) - 1, min(COMPARED, len(x))).long()


def chosen(made: Study) -> Iterator[dict[str, Any]]:
    """Rows: the widths that held-out pairs chose, and what they reached."""
    head = {"part": PART, "method": "kernel"}
    yield head | {"measure": "width of x~", "value": made.kernel.bandwidth_corrupted}
    yield head | {"measure": "width of x", "value": made.kernel.bandwidth_x}
    yield head | {"measure": "log P(x | x~) held out", "value": digits(made.log_likelihood)}


def energies(made: Study, loops: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Rows: relative energies once around the curve through midpoints, against the true density; and what is left at the
    end of the loop, where nothing should be. With the chosen widths, and with wider ones."""
    wide = Kernel(made.kernel.x, made.kernel.corrupted, *WIDE)
    head = {"part": "energies", "space": PART}
    for points in loops:
        path = made.curve.points[torch.arange(points + 1) * GRID // points % GRID]
        density = made.curve.log_density(path)
        truth = density[0] - density
        for name, kernel in (("", made.kernel), (f", widths {WIDE[0]} and {WIDE[1]}", wide)):
            found = chains.relative_energies(kernel.log_prob, corruption.Gaussian(CORRUPTION).log_prob, path)
            method = f"loop of {points} midpoints{name}"
            error, left = float((found - truth).square().mean().sqrt()), float(found[-1])
            yield head | {"method": method, "measure": "RMS error", "value": digits(error, 3), "expected": 0.0}
            yield head | {"method": method, "measure": "left after the loop", "value": digits(left, 3), "expected": 0.0}
        if points == loops[-1]:
            yield head | {
                "method": "data",
                "measure": "standard deviation of the energies",
                "value": digits(float(truth.std()), 3),
            }


def shown(name: str, x: Tensor) -> list[dict[str, Any]]:
    """Points for the figure: rows of six units, to three digits."""
    chosen = x[torch.linspace(0, len(x) - 1, min(SHOWN, len(x))).long(), :6]
    return [{"figure": "r10", "set": name} | {f"x{j + 1}": round(v, 3) for j, v in enumerate(row)} for row in chosen.tolist()]
