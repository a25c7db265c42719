"""The experiment on the programs of examples/, with a program of a few lines."""

from __future__ import annotations

import json

import pytest
import torch

import dither
from dither.cli import main
from dither.experiments.examples import experiment, programs
from dither.experiments.examples.turns import in_turn, per_step

TOY = """
import torch, dither
from functools import partial
ESTIMATORS = {"straight-through": dither.StraightThrough, "score": partial(dither.ScoreFunction, baseline="mean")}
def build(node=dither.Bernoulli):
    return torch.nn.Sequential(torch.nn.Linear(2, 3), node())
def train(make=dither.DisARM, *, node=dither.Bernoulli, steps=4, seed=0):
    torch.manual_seed(seed)
    net, x = build(node), torch.randn(5, 2)
    estimator = make(net)
    optimizer = torch.optim.SGD(net.parameters(), 1.0)
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(2):  # accumulated
            loss, aux = estimator(lambda: (net(x).sum(1) ** 2, {"h": net}), has_aux=True)
            loss.backward()
        optimizer.step()
    return {"bits": float(net(x).mean().detach()), "loss": float(loss.detach())}
"""
TINY = experiment.Config(seeds=(0, 1), draws=10, audit_after=2, turns=3)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(experiment, "programs", lambda only: programs.programs(only, tmp_path))
    return tmp_path / "toy.py"


def test_a_row_for_each_estimator_and_plain_torch_and_no_part_is_done_twice(toy, tmp_path):
    notes: list[str] = []
    rows = experiment.run(TINY, tmp_path / "runs", notes.append)["rows"]
    assert [row["estimator"] for row in rows] == ["straight-through", "score", "plain torch"] and len(notes) == 8
    for row in rows:
        assert row["program"] == "toy" and row["merit"] == "bits" and row["value"] == row["bits"] and row["seeds"] == 2
        assert row["milliseconds"] > 0 and row["ratio"] > 0 and row["loss_sd"] is not None
    assert rows[-1]["ratio"] == 1 and rows[-1]["bias"] is None
    straight, score = rows[0], rows[1]
    assert straight["bias"] > 3 * straight["bias_floor"] and score["noise"] > straight["noise"], "the cost is quadratic"
    again = experiment.run(TINY, tmp_path / "runs", notes.append)["rows"]
    assert again == rows and len(notes) == 8
    toy.write_text(TOY.replace("** 2", "** 3"))
    assert experiment.run(TINY, tmp_path / "runs", notes.append)["rows"] != rows and len(notes) == 16


def test_a_program_that_gives_its_estimator_no_closure_is_told(toy, tmp_path):
    toy.write_text(TOY.replace("estimator(lambda: (", "(lambda f, has_aux: (f()[0].mean(), None))(lambda: ("))
    notes: list[str] = []
    rows = experiment.run(TINY, tmp_path / "runs", notes.append)["rows"]
    assert {row["milliseconds"] for row in rows} == {None} and sum("no estimator on a closure" in note for note in notes) == 2


def test_steps_are_taken_in_turn_and_errors_come_through():
    log = []

    def training(name, steps):
        def train(tick):
            log.append((name, "setup"))
            for step in range(steps):
                tick()
                log.append((name, step))
            if steps == 2:
                raise KeyError(name)

        return train

    times = in_turn({"a": training("a", 3), "b": training("b", 3)})
    assert log == [(name, what) for what in ("setup", 0, 1, 2) for name in "ab"]
    assert {name: len(own) for name, own in times.items()} == {"a": 2, "b": 2}
    with pytest.raises(KeyError, match="short"):
        in_turn({"a": training("a", 3), "short": training("short", 2)})


def test_a_step_has_the_time_of_all_its_calls():
    times = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0, 4.0]  # four steps of two calls; the last call has no end
    assert per_step(times, steps=4, warm_up=1) == [22, 33]
    assert per_step(times[:3], steps=4, warm_up=1) == [10, 2] and per_step([], steps=4, warm_up=1) == []


def test_plain_nodes_are_straight_through(tmp_path):
    torch.manual_seed(0)
    for node, mean in ((programs.PlainBernoulli(), torch.sigmoid), (programs.PlainCategorical(), lambda a: a.softmax(-1))):
        logits = torch.randn(2000, 2, 3, requires_grad=True)
        sample, weight = node(logits), torch.randn(3)
        assert set(sample.detach().round(decimals=5).flatten().tolist()) == {0, 1}
        (gradient,) = torch.autograd.grad((sample * weight).sum(), logits)
        (exact,) = torch.autograd.grad((mean(logits) * weight).sum(), logits)
        torch.testing.assert_close(gradient, exact)
        assert float((sample - mean(logits)).detach().mean(0).abs().max()) < 0.05


def test_plain_episodes_credit_the_action_with_what_follows(tmp_path):
    logits, action = torch.randn(4, 3, requires_grad=True), programs.PlainCategorical()
    episodes, rewards, scores = programs.plain()(action), torch.randn(2, 4), []
    for reward in rewards:
        with episodes.acting():
            sample = action(logits)
        scores.append(sample.detach() - logits.detach().softmax(-1))
        episodes.reward(reward, done=None)
    (gradient,) = torch.autograd.grad(episodes.loss(), logits)
    exact = torch.zeros(4, 3)
    for ahead, score in zip((rewards[0] + rewards[1], rewards[1]), scores, strict=True):
        for game in range(4):
            others = sum(ahead[other] for other in range(4) if other != game) / 3
            exact[game] -= (ahead[game] - others) * score[game] / 4
    torch.testing.assert_close(gradient, exact)
    (tmp_path / "toy.py").write_text(TOY)
    stand_in = programs.load_plain(tmp_path / "toy.py").dither
    assert stand_in.Bernoulli is programs.PlainBernoulli and stand_in.Episodes is dither.Episodes
    with stand_in.rows(torch.tensor([5])):
        dither.Bernoulli()(torch.zeros(2, 1))  # which dither.rows would refuse


def test_the_command_and_what_it_says_of_programs_that_are_not_there(toy, tmp_path, capsys):
    flags = ["--seeds", "0", "--draws", "0", "--turns", "0", "--out", str(tmp_path / "runs"), "--json", "--quiet"]
    assert main(["experiment", "examples", *flags]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["ratio"] for row in rows] == [None] * 3
    with pytest.raises(ValueError, match="only is 'x', which is no program: choose among toy"):
        programs.programs(("x",), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no program in .*checkout"):
        programs.programs(folder=tmp_path / "nothing")
