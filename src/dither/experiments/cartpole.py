"""CartPole with hard stochastic hidden units: the reward comes long after the action, and no gradient comes with it.

The policy is 4 - hidden(binary) - 2(one-hot), and both layers are sampled. The methods differ in how a sample is credited with
the reward that follows it: by score in both layers with a choice of baselines, or, as the contrast, by score at the output only
and straight-through below it. CartPole-v1 gives a reward of 1 per step, at most 500; an average of 475 counts as solved.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn

import dither
from dither import methods
from dither.experiments.core import cache
from dither.experiments.core.summary import mean_and_sd
from dither.tables import Progress, Result, Row

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

# The baseline of the score, by the spelling of the estimator that has it: `Episodes` itself has no spelling.
METHODS: dict[str, Literal["mean", "optimal", "leave-one-out"] | None] = {
    "score-function": None,
    "score-function:mean": "mean",
    "score-function:optimal": "optimal",
    "score-function:leave-one-out": "leave-one-out",
    "straight-through": "leave-one-out",  # at the output alone: hidden units are straight-through
}
SOLVED = 475
WINDOW = 100
PLACES = ("methods", "seeds", "threads")  # no training depends on them


@dataclass(frozen=True)
class Config:
    """CartPole-v1 with hard binary hidden units, by score-function gradients with each baseline."""

    methods: tuple[str, ...] = tuple(METHODS)
    """score-function, with each baseline; straight-through: leave-one-out at the output, hidden units straight-through"""
    seeds: tuple[int, ...] = (0, 1, 2)
    hidden: int = 32
    updates: int = 100
    envs: int = 16
    """episodes per update"""
    lr: float = 0.05
    discount: float = 0.99
    decay: float = 0.9
    """of the moving baselines, per update"""
    threads: int = 1


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """Train every method with every seed: a row per method; curves: a row per method, seed and update.

    A finished training is cached in `folder` and not repeated.
    """
    if unknown := sorted(set(config.methods) - set(METHODS)):
        raise ValueError(f"there is no method {unknown[0]!r}; choose among {', '.join(METHODS)}")
    torch.set_num_threads(config.threads)
    cells = [_trained(config, method, seed, folder, progress) for seed in config.seeds for method in config.methods]
    curves = [row for cell in cells for row in cell["curve"]]
    rows = [_summary(method, cells) for method in config.methods]
    return {"rows": rows, "curves": curves, "seconds": sum(cell["seconds"] for cell in cells)}


def make_policy(hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, hidden), dither.Bernoulli(values=(-1, 1)), nn.Linear(hidden, 2), dither.Categorical())


def make_episodes(method: str, policy: nn.Sequential, config: Config) -> dither.Episodes:
    nodes = ["3"] if method == "straight-through" else None
    return dither.Episodes(policy, discount=config.discount, baseline=METHODS[method], nodes=nodes, decay=config.decay)


def make_envs(count: int) -> VectorEnv:
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError("the CartPole experiment needs gymnasium: pip install dither[rl]") from error
    return gymnasium.make_vec("CartPole-v1", num_envs=count, vectorization_mode="vector_entry_point")


def play(envs: VectorEnv, policy: nn.Module, episodes: dither.Episodes, seed: int | None = None) -> list[float]:
    """One episode in every environment, recorded by `episodes`. Returns their undiscounted returns."""
    observation, _ = envs.reset(seed=seed)
    returns = np.zeros(envs.num_envs)
    running = np.ones(envs.num_envs, dtype=bool)
    scale = torch.tensor([1.0, 1.0, 5.0, 1.0], dtype=torch.float32, device="cpu")  # an angle is small where a position is not
    while running.any():
        with episodes.acting():
            action = policy(torch.from_numpy(observation) * scale)
        observation, reward, terminated, truncated, _ = envs.step(action.argmax(-1).numpy())
        done = terminated | truncated
        returns += reward * running
        episodes.reward(reward, done)
        running &= ~done  # an environment that ended goes on by itself; nobody looks
    return returns.tolist()


def _trained(config: Config, method: str, seed: int, folder: Path, progress: Progress) -> Row:
    """One training: its curve, the mean return of its last episodes, and when it was solved."""
    settings = {key: value for key, value in asdict(config).items() if key not in PLACES} | {"method": method, "seed": seed}
    path = folder / f"{methods.slug(method)}-{seed}.json"
    if cached := cache.read(path, settings):
        return cached
    returns, curve = _learn(config, method, seed)
    cell = {"method": method, "seed": seed, "seconds": curve[-1]["seconds"], "return": fmean(returns[-WINDOW:])}
    cell |= {"solved": _solved(returns), "curve": curve}
    progress(f"{method} seed {seed}: return {cell['return']:.1f}, solved after {cell['solved']}, {cell['seconds']:.0f} s")
    return cache.write(path, settings, cell)


def _learn(config: Config, method: str, seed: int) -> tuple[list[float], list[Row]]:
    """(the returns of all episodes in the order of updates, a row per update)."""
    torch.manual_seed(seed)
    policy, envs = make_policy(config.hidden), make_envs(config.envs)
    episodes = make_episodes(method, policy, config)
    optimizer = torch.optim.Adam(policy.parameters(), config.lr)
    began, curve, returns = time.perf_counter(), [], []
    for update in range(config.updates):
        earned = play(envs, policy, episodes, seed if update == 0 else None)
        optimizer.zero_grad()
        episodes.loss().backward()
        optimizer.step()
        returns += earned
        row = {"method": method, "seed": seed, "episode": len(returns), "return": round(fmean(earned), 2)}
        curve.append(row | {"seconds": round(time.perf_counter() - began, 2)})
    envs.close()
    return returns, curve


def _solved(returns: list[float]) -> int | None:
    """After how many episodes the last 100 first averaged 475."""
    for count in range(WINDOW, len(returns) + 1):
        if fmean(returns[count - WINDOW : count]) >= SOLVED:
            return count
    return None


def _summary(method: str, cells: list[Row]) -> Row:
    own = [cell for cell in cells if cell["method"] == method]
    solved = [cell["solved"] for cell in own if cell["solved"] is not None]
    row: Row = {"method": method, "seeds": len(own), **mean_and_sd("return", [cell["return"] for cell in own])}
    row |= {"solved": len(solved), "episodes_to_475": round(fmean(solved)) if solved else None}
    return row | {"seconds": round(fmean(cell["seconds"] for cell in own), 1)}
