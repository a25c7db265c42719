"""The small spaces of `gdae-consistency`: a known distribution and corruption, and all that follows exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dither import corruption, metrics

TEN = (0.02, 0.10, 0.17, 0.05, 0.01, 0.12, 0.20, 0.08, 0.03, 0.22)
RING = {0: 0.4, 1: 0.2, -1: 0.2, 2: 0.1, -2: 0.1}
LOCAL_RING = {0: 0.9, 1: 0.05, -1: 0.05}
RATE = 0.4  # of salt and pepper


@dataclass(frozen=True)
class Space:
    """data (states,); corruption (states, states): row x is C(. | x). States are corrupted to states."""

    name: str
    states: Tensor
    data: Tensor
    corruption: Tensor

    @property
    def reconstruction(self) -> Tensor:
        """The exact P(x | x~), row x~."""
        return bayes(self.data, self.corruption)


def bayes(data: Tensor, corrupting: Tensor) -> Tensor:
    """P(x | x~) ∝ P(x) C(x~ | x), (X~, X)."""
    joint = (data.unsqueeze(1) * corrupting).T
    return joint / joint.sum(1, keepdim=True)


def stationary(corrupting: Tensor, reconstruction: Tensor) -> Tensor:
    """The stationary distribution of the chain that corrupts and reconstructs."""
    return metrics.stationary(metrics.transition_matrix(corrupting.log(), reconstruction.log()))


def space(name: str) -> Space:
    if name not in SPACES:
        raise ValueError(f"there is no space {name!r}; the spaces are {', '.join(SPACES)}")
    return SPACES[name](name)


def ring(moves: dict[int, float]) -> Callable[[str], Space]:
    def build(name: str) -> Space:
        count = len(TEN)
        matrix = torch.zeros(count, count, dtype=torch.float64, device="cpu")
        for x in range(count):
            for move, probability in moves.items():
                matrix[x, (x + move) % count] += probability
        states = torch.arange(count, dtype=torch.float64, device="cpu").unsqueeze(1)
        return Space(name, states, torch.tensor(TEN, dtype=torch.float64, device="cpu"), matrix)

    return build


def binary(units: int, coupling: float, bias: float) -> Callable[[str], Space]:
    """log P(x) = Σ bias sin(2 i + 1) s_i + Σ_{i<j} coupling cos(3 i + 5 j + 1) s_i s_j + constant, s = 2 x - 1."""

    def build(name: str) -> Space:
        states = metrics.all_states(units).double()
        s, i = 2 * states - 1, torch.arange(units, dtype=torch.float64, device="cpu")
        pairs = torch.triu(coupling * torch.cos(3 * i.unsqueeze(1) + 5 * i + 1), 1)
        data = torch.softmax(s @ (bias * torch.sin(2 * i + 1)) + ((s @ pairs) * s).sum(1), 0)
        return Space(name, states, data, salt_and_pepper(states))

    return build


def salt_and_pepper(states: Tensor) -> Tensor:
    corrupt = corruption.SaltAndPepper(RATE)
    return torch.stack([corrupt.log_prob(states, x.expand_as(states)).exp() for x in states])


SPACES: dict[str, Callable[[str], Space]] = {
    "ten": ring(RING),
    "ten-local": ring(LOCAL_RING),
    "binary-5": binary(5, 0.5, 0.3),
    "binary-8": binary(8, 0.2, 0.15),
}


# --- what is known beforehand -----------------------------------------------------------------------------------------
def eigenvalues(corrupting: Tensor, reconstruction: Tensor) -> Tensor:
    """Of the transitions, without the largest, which is 1; from large to small."""
    values = torch.linalg.eigvals(corrupting @ reconstruction)
    return values.real.sort(descending=True).values[1:]


def price(eigen: Tensor, corruptions: int = 1) -> float:
    """What 2 n KL(data || pi_n) tends to in the mean, for pi_n by counting from n examples, each corrupted so often.

    Formula     Σ 1 + λ / (m (1 - λ)) over the eigenvalues λ < 1 of the transitions; 1 each is the examples' own noise,
                that of their empirical distribution; the rest is the noise of corrupting them, which a slow chain
                multiplies.
    Why         To first order pi_n - pi = d Z, d = pi (T_n - T), Z the inverse of 1 - T off its constants. With m = 1,
                d has the covariance D (1 - T) / n, D = diag(pi), and T is reversible, so pi_n has D Z / n and 2 n KL
                the trace of Z.
    """
    return float((1 + eigen / (corruptions * (1 - eigen))).sum())


def walk_corruption(corrupting: Tensor, reconstruction: Tensor, weights: Sequence[float]) -> Tensor:
    """The corruption of a walk: Σ_k weights_k C (P C)^k, row x."""
    total, ahead = torch.zeros_like(corrupting), corrupting
    for weight in weights:
        total, ahead = total + weight * ahead, ahead @ reconstruction @ corrupting
    return total


def fixed_point(place: Space, weights: Sequence[float], tolerance: float = 1e-15, rounds: int = 1000) -> Tensor:
    """The P(x | x~) that walkback leads to with endless data: Bayes of the walk that P itself defines."""
    conditional = place.reconstruction
    for _ in range(rounds):
        before, conditional = conditional, bayes(place.data, walk_corruption(place.corruption, conditional, weights))
        if float((conditional - before).abs().max()) <= tolerance:
            break
    return conditional


def walked(eigen: float, weights: Sequence[float], rounds: int = 1000) -> float:
    """The eigenvalue that the walk makes of one of the plain chain: λ' = λ Σ weights_k λ'^k."""
    value = eigen
    for _ in range(rounds):
        value = eigen * sum(weight * value**k for k, weight in enumerate(weights))
    return value


def geometric(p: float, largest: int = 60) -> list[float]:
    """Shares of the k-th x~ of a walk among all, which goes on with probability p after each."""
    return [(1 - p) * p**k / (1 - p**largest) for k in range(largest)]


def digits(value: float | None, count: int = 4) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{count}g}")
