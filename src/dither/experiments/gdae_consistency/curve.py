"""Data near a closed curve in R^10, and the chain of a kernel density as denoiser (GDAE paper, Fig. 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dither import chains, corruption, metrics
from dither.chains import Denoiser, KernelConditional
from dither.experiments.gdae_consistency.spaces import digits
from dither.tables import Row

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
    """x = c(t) + N(0, NOISE^2 I), with t in [0, 1) of density 1 + UNEVEN cos 2 pi t.

    Each unit of c has three Fourier modes, and runs from -1 to 1.5.
    """

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        waves = torch.randn(2, MODES, UNITS, generator=generator, dtype=torch.float64, device="cpu")
        t = torch.arange(GRID, dtype=torch.float64, device="cpu") / GRID
        angles = 2 * math.pi * t.unsqueeze(1) * torch.arange(1, MODES + 1, dtype=torch.int64, device="cpu")
        waves /= torch.arange(1, MODES + 1, dtype=torch.int64, device="cpu").view(1, -1, 1)
        points = angles.cos() @ waves[0] + angles.sin() @ waves[1]
        low, high = points.min(0).values, points.max(0).values
        self.points = -1 + 2.5 * (points - low) / (high - low)
        steps = (self.points.roll(-1, 0) - self.points).norm(dim=1)
        self.length = float(steps.sum())
        self.arc = (steps.cumsum(0) - steps) / steps.sum()  # share of the length, (GRID,)
        self.weights = (1 + UNEVEN * torch.cos(2 * math.pi * t)) / GRID

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        t = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        return self.points[t] + NOISE * torch.randn(count, UNITS, generator=generator, dtype=torch.float64, device="cpu")

    def log_density(self, x: Tensor) -> Tensor:
        """By a sum over the grid, whose step is a tenth of the noise."""
        constant = UNITS / 2 * math.log(2 * math.pi * NOISE**2)
        blocks = [
            torch.logsumexp(self.weights.log() - block / (2 * NOISE**2), 1)
            for _, block in metrics.squared_distances(x, self.points)
        ]
        return torch.cat(blocks) - constant

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(distance to the curve, share of the length where it is nearest), each (batch,)."""
        distance, index = metrics.nearest(x, self.points)
        return distance[:, 0], self.arc[index[:, 0]]


@dataclass(frozen=True)
class Study:
    """The curve, two sets of data, and the kernel density of the first with the best widths on the second."""

    curve: Curve
    train: Tensor
    held_out: Tensor
    kernel_density: KernelConditional
    log_likelihood: float


def study(examples: int, choosing: int, seed: int) -> Study:
    """choosing: how many held-out pairs choose the widths."""
    curve, generator = Curve(), torch.Generator().manual_seed(seed)
    train, held_out = curve.sample(examples, generator), curve.sample(examples, generator)
    torch.manual_seed(seed)
    corrupt = corruption.Gaussian(CORRUPTION)
    pairs, other = corrupt(train), corrupt(held_out[:choosing])
    candidates = [KernelConditional(train, pairs, s, b) for s in WIDTHS_CORRUPTED for b in WIDTHS_X]
    scores = [float(candidate.log_prob(other, held_out[:choosing]).mean()) for candidate in candidates]
    best = max(range(len(candidates)), key=scores.__getitem__)
    return Study(curve, train, held_out, candidates[best], scores[best])


def generate(study: Study, start: Tensor, samples: int, burn_in: int, seed: int) -> Tensor:
    """`samples` in all, of a chain from each row of `start`, every fifth step."""
    chain = Denoiser(corruption.Gaussian(CORRUPTION), study.kernel_density)
    steps = 5 * -(-samples // len(start))
    visited = chains.run(chain, start, steps, burn_in=burn_in, thin=5, seed=seed)
    return visited.x.flatten(0, 1)[:samples]


def evaluate(study: Study, name: str, x: Tensor) -> Iterator[Row]:
    """Rows: distance to the curve, and to the distribution of the held-out data, along the curve and in all."""
    head = {"part": PART, "method": name}
    distance, arc = study.curve.nearest(x)
    yield head | {"measure": "mean distance to the curve", "value": digits(float(distance.mean()))}
    if name == "held out":
        return
    _, other = study.curve.nearest(study.held_out)
    shares = [torch.histc(a, BINS, 0, 1) / len(a) for a in (arc, other)]
    yield head | {"measure": "TV(arc length, held out)", "value": digits(float((shares[0] - shares[1]).abs().sum() / 2), 3)}
    squared = metrics.mmd(x[_some(x)], study.held_out[:COMPARED]).squared
    yield head | {"measure": "MMD^2 to held out", "value": digits(squared, 2)}


def _some(x: Tensor) -> Tensor:
    """Rows spread evenly over all, so that every part of every chain counts."""
    return torch.linspace(0, len(x) - 1, min(COMPARED, len(x)), dtype=torch.float32, device="cpu").long()


def widths(study: Study) -> Iterator[Row]:
    """Rows: the widths that held-out pairs chose, and what they reached."""
    head = {"part": PART, "method": "kernel density"}
    yield head | {"measure": "width of x~", "value": study.kernel_density.bandwidth_corrupted}
    yield head | {"measure": "width of x", "value": study.kernel_density.bandwidth_x}
    yield head | {"measure": "log P(x | x~) held out", "value": digits(study.log_likelihood)}


def energies(study: Study, loops: Sequence[int]) -> Iterator[Row]:
    """Rows: relative energies once around the curve through midpoints, against the true density.

    Beside them what is left at the end of the loop, where nothing should be. With the widths of the study, and with
    wider ones.
    """
    own, truth = study.kernel_density, torch.zeros(0, dtype=torch.float32, device="cpu")
    wide = KernelConditional(own.x, own.corrupted, *WIDE)
    head: Row = {"part": "energies", "space": PART}
    for points in loops:
        path = study.curve.points[torch.arange(points + 1, dtype=torch.int64, device="cpu") * GRID // points % GRID]
        density = study.curve.log_density(path)
        truth = density[0] - density
        for name, kernel_density in (("", own), (f", widths {WIDE[0]} and {WIDE[1]}", wide)):
            along = chains.relative_energies(kernel_density.log_prob, corruption.Gaussian(CORRUPTION).log_prob, path)
            method = f"loop of {points} midpoints{name}"
            error, left = float((along - truth).square().mean().sqrt()), float(along[-1])
            yield head | {"method": method, "measure": "RMS error", "value": digits(error, 3), "expected": 0.0}
            yield head | {"method": method, "measure": "left after the loop", "value": digits(left, 3), "expected": 0.0}
    if len(loops):
        deviation = digits(float(truth.std()), 3)
        yield head | {"method": "data", "measure": "standard deviation of the energies", "value": deviation}


def shown(name: str, x: Tensor) -> list[Row]:
    """Points for the figure: rows of six units, to three digits."""
    some = x[torch.linspace(0, len(x) - 1, min(SHOWN, len(x)), dtype=torch.float32, device="cpu").long(), :6]
    return [{"figure": "r10", "set": name} | {f"x{j + 1}": round(v, 3) for j, v in enumerate(row)} for row in some.tolist()]
