"""The options of `spurious-modes`, and the ways of training that it compares."""

from __future__ import annotations

from dataclasses import dataclass

PAIRS = 5  # of (x, x~) for each example of the smallest batch


@dataclass(frozen=True)
class Way:
    """A way of training. walk: steps of a walk, or its p; batches and updates: how many times the smallest number.

    scales: of the corruption's noise, in multiples of the smallest; each is sampled equally often.
    """

    walk: float = 1
    batches: float = 1
    updates: int = 1
    scales: tuple[int, ...] = (1,)


METHODS = {
    "plain": Way(),
    "plain-batch-x5": Way(batches=PAIRS),
    "plain-updates-x5": Way(updates=PAIRS),
    "multiscale-x5": Way(batches=PAIRS, scales=(1, 2, 4, 8)),
    "walkback-5": Way(walk=PAIRS),
    "walkback-p.5": Way(walk=0.5, batches=PAIRS / 2),  # two steps in the mean
    "exact": Way(batches=0, updates=0),
}


@dataclass(frozen=True)
class Config:
    """Spurious attractors of denoising auto-encoders on a spiral, trained with and without walkback."""

    methods: tuple[str, ...] = tuple(METHODS)
    corruptions: tuple[float, ...] = (0.03,)
    """standard deviations of the local corruption; the spiral's turns are about .7 from each other"""
    noise: float = 0.03
    """standard deviation of the data around the curve"""
    learned_scale: bool = False
    """the network gives the reconstruction's scale too; else it is fixed, the best one for a straight line"""
    activation: str = "relu"
    """or tanh"""
    gain: float = 8.0
    """the network sees gain x~: it can bend within the gap between two turns"""
    hidden: int = 64
    seeds: int = 5
    examples: int = 1000
    """to train, and again held out"""
    updates: int = 2000
    batch: int = 64
    lr: float = 0.005
    """falls to 0 along a cosine"""
    points: int = 30
    """of the grid over the box, along each side"""
    iterations: int = 1000
    """of x~ -> E[x | x~]"""
    chains: int = 200
    """from the box, and as many from held-out examples"""
    threads: int = 1


def check(config: Config) -> None:
    """Raises ValueError for what makes no sense."""
    if unknown := sorted(set(config.methods) - set(METHODS)):
        raise ValueError(f"there is no method {unknown[0]!r}; the methods are {', '.join(METHODS)}")
    if config.activation not in ("relu", "tanh"):
        raise ValueError(f"activation is {config.activation!r}: expected relu or tanh")
