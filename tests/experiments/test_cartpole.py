"""The CartPole experiment, a few episodes long."""

from __future__ import annotations

import json
import sys
from statistics import fmean, stdev

import pytest
import torch

from dither.cli import main
from dither.experiments import cartpole

gymnasium = pytest.importorskip("gymnasium")
TINY = cartpole.Config(seeds=(0, 1), hidden=4, updates=2, envs=3)


def test_every_method_trains_and_a_finished_training_is_not_repeated(tmp_path) -> None:
    notes: list[str] = []
    result = cartpole.run(TINY, tmp_path, notes.append)
    assert [row["method"] for row in result["rows"]] == list(cartpole.METHODS) and len(notes) == 10
    assert {row["seeds"] for row in result["rows"]} == {2} and {row["episodes_to_475"] for row in result["rows"]} == {None}
    assert [row["episode"] for row in result["curves"]] == [3, 6] * 10
    for row in result["rows"]:  # all six episodes of a seed count, three an update
        own = [r["return"] for r in result["curves"] if r["method"] == row["method"]]
        means = [fmean(own[:2]), fmean(own[2:])]
        assert row["return"] == pytest.approx(fmean(means), abs=0.01)
        assert row["return_sd"] == pytest.approx(stdev(means), abs=0.01)
    assert cartpole.run(TINY, tmp_path, notes.append) == result and len(notes) == 10


def test_the_returns_are_those_of_single_environments() -> None:
    """The batched play against gymnasium's own environments, stepped one by one from the same states by the same actions."""
    torch.manual_seed(3)
    policy, envs = cartpole.make_policy(4), cartpole.make_envs(3)
    taken = []
    policy[3].register_forward_hook(lambda _, __, action: taken.append(action.argmax(1).tolist()))
    returns = cartpole.play(envs, policy, cartpole.make_episodes("score-function:optimal", policy, TINY), seed=7)
    envs.reset(seed=7)
    for i, start in enumerate(envs.unwrapped.state.T.copy()):
        env = gymnasium.make("CartPole-v1")
        env.reset()
        env.unwrapped.state = start
        total, done = 0.0, False
        while not done:
            _, reward, terminated, truncated, _ = env.step(taken[int(total)][i])
            total, done = total + reward, terminated or truncated
        assert total == returns[i]
    assert len(set(returns)) > 1


def test_the_first_window_that_averages_475_counts() -> None:
    assert cartpole._solved([500.0] * 99) is None
    assert cartpole._solved([0.0] * 30 + [500.0] * 200) == 30 + 95
    assert cartpole._solved([474.0] * 300) is None


def test_the_command_and_what_it_says_without_gymnasium(tmp_path, capsys, monkeypatch) -> None:
    tiny = ["--seeds", "0", "--updates", "1", "--envs", "2", "--hidden", "2"]
    tiny += ["--methods", "score-function:mean", "straight-through"]
    assert main(["experiment", "cartpole", *tiny, "--out", str(tmp_path), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["method"] for row in rows] == ["score-function:mean", "straight-through"]
    assert (tmp_path / "figures" / "learning.svg").is_file()
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"pip install dither\[rl\]"):
        cartpole.make_envs(1)
    with pytest.raises(ValueError, match="no method 'x'"):
        cartpole.run(cartpole.Config(methods=("x",)), tmp_path)
