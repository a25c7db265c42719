"""CartPole with hard stochastic hidden units: the reward comes long after the decision, and no gradient comes with it.

The policy is 4 - hidden(binary) - 2(one-hot), and both layers are drawn. The methods differ in how a decision is credited with
what it earned: by score in both layers with a choice of baselines, or, as the contrast, by score at the output only and
straight-through below it. CartPole-v1 gives a reward of 1 per step, at most 500; an average of 475 counts as solved.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

METHODS = ("none", "mean", "optimal", "leave-one-out", "straight-through")
SOLVED = 475
WINDOW = 100


@dataclass(frozen=True)
class Config:
    """CartPole-v1 with hard binary hidden units, by score-function gradients with each baseline."""

    methods: tuple[str, ...] = METHODS
    """baseline of the score: none, mean, optimal, leave-one-out; straight-through: leave-one-out at the output, hidden units
    straight-through"""
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


def run(config: Config, folder: Path, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """Train every method with every seed and return {"rows": a row per method, "curves": a row per method, seed, update}.

    A finished training is kept in `folder` and not repeated.
    """
    import torch

    unknown = sorted(set(config.methods) - set(METHODS))
    if unknown:
        raise ValueError(f"there is no method {unknown[0]!r}; choose among {', '.join(METHODS)}")
    torch.set_num_threads(config.threads)
    cells = [_cell(config, method, seed, folder, progress) for seed in config.seeds for method in config.methods]
    curves = [row for cell in cells for row in cell["curve"]]
    rows = [_summary(method, cells) for method in config.methods]
    return {"rows": rows, "curves": curves, "seconds": sum(cell["seconds"] for cell in cells)}


def make_policy(hidden: int) -> Any:
    from torch import nn

    import dither

    return nn.Sequential(nn.Linear(4, hidden), dither.Bernoulli(values=(-1, 1)), nn.Linear(hidden, 2), dither.Categorical())


def make_episodes(method: str, policy: Any, config: Config) -> Any:
    import dither

    if method == "straight-through":
        return dither.Episodes(policy, config.discount, "leave-one-out", nodes=["3"])
    return dither.Episodes(policy, config.discount, None if method == "none" else method, decay=config.decay)


def make_envs(count: int) -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError("the CartPole experiment needs gymnasium: pip install dither[rl]") from error
    return gymnasium.make_vec("CartPole-v1", num_envs=count, vectorization_mode="vector_entry_point")


def play(envs: Any, policy: Any, episodes: Any, seed: int | None = None) -> list[float]:
    """One episode in every environment, recorded by `episodes`. Returns their undiscounted returns."""
    import numpy as np
    import torch

    observation, _ = envs.reset(seed=seed)
    returns = np.zeros(envs.num_envs)
    running = np.ones(envs.num_envs, dtype=bool)
    scale = torch.tensor([1.0, 1.0, 5.0, 1.0])  # an angle is small where a position is not
    while running.any():
        with episodes.acting():
            action = policy(torch.from_numpy(observation) * scale)
        observation, reward, terminated, truncated, _ = envs.step(action.argmax(-1).numpy())
        done = terminated | truncated
        returns += reward * running
        episodes.reward(reward, done)
        running &= ~done  # an environment that ended goes on by itself; nobody looks
    return returns.tolist()


def _cell(config: Config, method: str, seed: int, folder: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """One training: its curve, and the returns of all its episodes in the order of updates."""
    import torch

    from dither import files

    settings = {k: v for k, v in asdict(config).items() if k not in ("methods", "seeds", "threads")}
    settings |= {"method": method, "seed": seed}
    path = folder / f"{method}-{seed}.json"
    if path.is_file() and (done := json.loads(path.read_text()))["settings"] == settings:
        return done
    torch.manual_seed(seed)
    policy, envs = make_policy(config.hidden), make_envs(config.envs)
    episodes = make_episodes(method, policy, config)
    optimizer = torch.optim.Adam(policy.parameters(), config.lr)
    started, curve, returns = time.perf_counter(), [], []
    for update in range(config.updates):
        earned = play(envs, policy, episodes, seed if update == 0 else None)
        optimizer.zero_grad()
        episodes.loss().backward()
        optimizer.step()
        returns += earned
        curve.append(
            {"method": method, "seed": seed, "episode": len(returns), "return": round(fmean(earned), 2)}
            | {"seconds": round(time.perf_counter() - started, 2)}
        )
    envs.close()
    cell = {"settings": settings, "method": method, "seed": seed, "seconds": time.perf_counter() - started}
    cell |= {"return": fmean(returns[-WINDOW:]), "solved": _solved(returns), "curve": curve}
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(path, cell)
    progress(f"{method} seed {seed}: return {cell['return']:.1f}, solved after {cell['solved']}, {cell['seconds']:.0f} s")
    return cell


def _solved(returns: list[float]) -> int | None:
    """After how many episodes the last 100 first averaged 475."""
    for count in range(WINDOW, len(returns) + 1):
        if fmean(returns[count - WINDOW : count]) >= SOLVED:
            return count
    return None


def _summary(method: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    own = [cell for cell in cells if cell["method"] == method]
    values, solved = [cell["return"] for cell in own], [cell["solved"] for cell in own if cell["solved"] is not None]
    row: dict[str, Any] = {"method": method, "seeds": len(own)}
    row |= {"return": round(fmean(values), 1), "return_least": round(min(values), 1), "return_most": round(max(values), 1)}
    row |= {"solved": len(solved), "episodes_to_475": round(fmean(solved)) if solved else None}
    return row | {"seconds": round(fmean(cell["seconds"] for cell in own), 1)}
