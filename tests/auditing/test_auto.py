"""Auto: what it chooses, what its audits may cost, and that training with it can be repeated and resumed."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import dither
from dither import ARM, Auto, Bernoulli, Categorical, MuProp, ScoreFunction, StraightThrough
from dither.auditing import _auto, _warm_up, suitable
from dither.training.loop import fit
from dither.training.run_folder import RunFolder

LOO = partial(ScoreFunction, baseline="leave-one-out", samples=2)
OPTIMAL = partial(ScoreFunction, baseline="optimal")
TWO = {"st": StraightThrough, "loo": LOO}


def network(node: type[nn.Module] = Bernoulli, units: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, units), node(), nn.Linear(units, 1)).double()


X = torch.tensor([[0.3, -1.0], [1.0, 0.5], [-0.7, 0.2]], dtype=torch.float64)


def train(auto: Auto, closure, calls: int) -> list[float]:
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(auto.model.parameters(), lr=0.01)
    losses = []
    for _ in range(calls):
        optimizer.zero_grad()
        loss = auto(closure)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_the_choice_follows_the_cost() -> None:
    """Straight-through is exact for a linear cost, and blind to a parity of the units: its gradients at 0 and 1 mislead."""
    net = network()
    auto = Auto(net, candidates=TWO, by="evaluations", share=0.6, draws=20, steps=1000)
    linear = {"now": True}

    def closure() -> Tensor:
        h = net[1](net[0](X))
        return h.sum(1) if linear["now"] else torch.cos(3.0 * torch.pi * h).prod(1)

    train(auto, closure, 3)
    assert auto.choice == "st" and auto.audits == 1 and not auto.unbiased and auto.evaluations == 1
    linear["now"] = False
    while auto.audits < 2:
        train(auto, closure, 50)
    assert auto.choice == "loo" and auto.unbiased and auto.evaluations == 2
    assert auto.recommendation is not None and "evaluations a step" in auto.recommendation.reason


# Without a graph, and with one whose derivative is zero.
FLAT = {
    "counted": lambda out: ((9 * out).sin() > 0).double(),
    "rounded": lambda out: (9 * out).round(),
}


@pytest.mark.parametrize("by", ["time", "evaluations"])
@pytest.mark.parametrize("cost", FLAT)
@pytest.mark.parametrize("node", [Bernoulli, Categorical])
def test_it_picks_one_that_trains_what_is_before_the_nodes(node: type[nn.Module], cost: str, by) -> None:
    net = network(node, 4)
    auto = Auto(net, by=by, draws=4)
    for _ in range(20):  # one call's samples may cost the same
        auto(lambda: FLAT[cost](net(X).squeeze(1))).backward()
    assert auto.unbiased and net[0].weight.grad is not None and net[0].weight.grad.abs().max() > 0


def test_where_no_candidate_has_a_gradient_an_unbiased_one_is_used_or_the_user_is_told() -> None:
    net = network()
    nothing = lambda: net[1](net[0](X)).sum(1) * 0 + 1.0  # noqa: E731
    auto = Auto(net, candidates=TWO, draws=2)
    auto(nothing)
    assert auto.choice == "loo" and auto.recommendation is not None and auto.recommendation.estimator is None
    with pytest.warns(UserWarning, match=r"no candidate that can train this model: .*ScoreFunction\(net, baseline="):
        Auto(net, candidates={"st": StraightThrough}, draws=2)(lambda: FLAT["rounded"](net(X).squeeze(1)))


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_audits_keep_within_their_share_of_the_time(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Time is what the closure takes: one second a call, on a clock of the test's own."""
    clock = {"now": 0.0}
    monkeypatch.setattr(_auto, "time", SimpleNamespace(perf_counter=lambda: clock["now"]))
    net = network()

    def closure() -> Tensor:
        clock["now"] += 1
        return net(X).squeeze(1)

    auto = Auto(net, candidates={"st": StraightThrough, "muprop": MuProp}, draws=2, share=share)
    audits = 0
    for _ in range(600):
        auto(closure)
        assert auto.spent + auto.total == clock["now"]
        if 1 < audits < auto.audits:
            assert auto.spent <= share * clock["now"]
        audits = auto.audits
    assert audits > 3 and share / 2 < auto.spent / clock["now"] <= share


def test_by_evaluations_the_same_seed_gives_the_same_training() -> None:
    histories = []
    for _ in range(2):
        net = network()
        auto = Auto(net, by="evaluations", draws=3, share=0.3)
        histories.append((train(auto, lambda net=net: net(X).squeeze(1).sin(), 30), auto.choice, auto.audits, auto.spent))
    assert histories[0] == histories[1]


def test_an_audit_draws_one_number_of_the_users_generator_and_changes_no_candidate() -> None:
    net = network()
    auto = Auto(net, candidates={"opt": OPTIMAL, "st": StraightThrough}, draws=3)
    with auto.frozen():
        auto(lambda: net(X).squeeze(1))
    assert auto.audits == 0, "an oracle must be able to leave its state alone"
    auto._audit(lambda: net(X).squeeze(1))
    assert all(p.grad is None for p in net.parameters())
    assert all(not key.startswith("opt/") or not tensor.any() for key, tensor in auto.state_dict().items())


def test_its_state_goes_to_another() -> None:
    net = network()
    auto = Auto(net, candidates=TWO | {"opt": OPTIMAL}, by="evaluations", draws=5, steps=1e9)
    train(auto, lambda: net(X).squeeze(1).sin(), 4)
    other = Auto(net, candidates=TWO | {"opt": OPTIMAL}, by="evaluations", draws=5)
    other.load_state_dict({name: tensor.clone() for name, tensor in auto.state_dict().items()})
    assert (other.choice, other.audits, other.spent, other.total) == (auto.choice, auto.audits, auto.spent, auto.total)
    assert auto.choice != "st" and other.audits == 1
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in auto.state_dict().items())
    with pytest.raises(ValueError, match=r'Missing key.*"account"'):
        other.load_state_dict({"choice": torch.tensor(0)})


def test_candidates_that_do_not_take_the_model_are_left_out() -> None:
    net = network(Categorical)
    assert list(Auto(net, candidates={"arm": ARM, "loo": LOO}).candidates) == ["loo"]
    with pytest.raises(ValueError, match=r"no candidate .* arm: ARM cannot credit node '1', a Categorical"):
        Auto(net, candidates={"arm": ARM})
    assert list(Auto(network(), candidates=TWO, unbiased_only=True).candidates) == ["loo"]
    with pytest.raises(ValueError, match="none is unbiased"):
        Auto(network(), candidates={"st": StraightThrough}, unbiased_only=True)


@pytest.mark.parametrize(("arguments", "words"), [({"share": 0.0}, "share is 0"), ({"by": "luck"}, "by is 'luck'")])
def test_bad_arguments(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Auto(network(), candidates=TWO, **arguments)


def test_training_resumes_with_the_same_audits(tmp_path) -> None:
    y = torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64)

    def trained(epochs: int, run: RunFolder, resume: bool = False):
        net = network()
        auto = Auto(net, candidates={"muprop": MuProp, "opt": OPTIMAL, "loo": LOO}, by="evaluations", draws=2, share=0.8)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        cost = lambda model, xb, yb: (model(xb) - yb).square().sum(1)  # noqa: E731
        fit(net, auto, optimizer, cost, (X, y), epochs=epochs, batch_size=2, seed=3, run=run, resume=resume)
        return auto, {name: tensor.clone() for name, tensor in net.state_dict().items()}

    with RunFolder.create(tmp_path / "whole", {}) as run:
        whole, weights = trained(30, run)
    with RunFolder.create(tmp_path / "parts", {}) as run:
        trained(7, run)
        parts, again = trained(30, run, resume=True)
    assert whole.audits == parts.audits > 1 and whole.spent == parts.spent and whole.choice == parts.choice
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())


# --- what surrounds audits: which estimators suit, and what they learn --------------------------------------------------
def test_suitable_says_why_the_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()

    def build(model: nn.Module) -> dither.Estimator:
        return dither.LocalExpectation(model, max_runs=2)

    candidates = {"st": StraightThrough, "carms": dither.CARMS, "vimco": dither.VIMCO, "few": build}
    estimators, refused = suitable(net, lambda: net(X).squeeze(1), candidates)
    assert list(estimators) == ["st"] and set(refused) == {"carms", "vimco", "few"}
    assert "cannot credit" in refused["carms"] and "another" in refused["vimco"] and "max_runs=2" in refused["few"]
    monkeypatch.setattr(_warm_up, "MAX_EVALUATIONS", 25)
    estimators, refused = suitable(net, lambda: net(X).squeeze(1), {"fd": dither.FiniteDifference, "score": ScoreFunction})
    assert list(estimators) == ["score"] and "26 evaluations a gradient, more than 25" in refused["fd"]


@pytest.mark.parametrize("build", [dither.RELAX, dither.RODEO, partial(dither.NVIL, baseline=nn.LazyLinear(1).double())])
def test_parameters_of_its_own_learn_in_the_warm_up_and_go_back(build, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    estimator = build(net)
    closure = lambda: 10 + net(X).squeeze(1).sin()  # noqa: E731
    with estimator.frozen():
        estimator(closure)  # known shapes
    recorded: list[list[Tensor]] = []

    def record(draw: int, draws: int) -> None:
        recorded.append([p.detach().clone() for p in estimator.parameters()])

    before = {name: tensor.clone() for name, tensor in estimator.state_dict().items()}
    weights = [p.detach().clone() for p in net.parameters()]
    own = [p.detach().clone() for p in estimator.parameters()]
    dither.audit(net, closure, [estimator], draws=2, warmup=5, progress=record)
    assert any(not torch.equal(a, b) for a, b in zip(own, recorded[0], strict=True)), "learned in the warm-up"
    assert all(torch.equal(a, b) for a, b in zip(recorded[0], recorded[1], strict=True)), "and not in the draws"
    assert all(torch.equal(tensor, estimator.state_dict()[name]) for name, tensor in before.items())
    assert all(torch.equal(a, p) and p.grad is None for a, p in zip(weights, net.parameters(), strict=True))
    assert all(p.grad is None for p in estimator.parameters())


def test_a_bound_of_several_samples_is_not_unbiased_for_the_expected_cost() -> None:
    net = network()
    assert dither.VIMCO(net).unbiased
    (row,) = dither.audit(net, lambda: net(X).squeeze(1), [dither.VIMCO], draws=2, warmup=0).overall().values()
    assert row["unbiased"] is False


def test_candidates_may_be_a_list() -> None:
    auto = Auto(network(), candidates=[StraightThrough, MuProp, StraightThrough])
    assert list(auto.candidates) == ["StraightThrough", "MuProp", "StraightThrough'"]
    with pytest.raises(ValueError, match="candidates is empty"):
        Auto(network(), candidates={})
