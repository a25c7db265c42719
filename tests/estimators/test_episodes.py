"""Episodes against a decision process to sum over: every trajectory on one side, Bellman's recursion on the other."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from dither import Bernoulli, Categorical, Episodes, NoisyReLU
from dither.estimators.episodes.returns import mean_of_others
from dither.nodes import named_nodes, taken_over
from small_mdp import F64, REWARD, Forced, flat, move, observe, play, policy, probabilities, value


def every(model: nn.Module, make, starts: list[int], horizon: int, units: int, bootstrap=None) -> Iterator[tuple]:
    """(probability, gradient, loss) of every joint outcome. Steps of ended episodes are enumerated too, to weights of 1."""
    for digits in product((0, 1), repeat=units * horizon * len(starts)):
        source, episodes = Forced(digits), make()
        with taken_over(named_nodes(model).values(), source=source):
            play(model, episodes, starts, horizon)
        loss = episodes.loss(bootstrap)
        assert source.at == len(digits)
        yield source.probability, flat(model, loss), loss.detach()


def expected(model: nn.Module, make, starts: list[int], horizon: int, units: int, bootstrap=None) -> tuple[Tensor, Tensor]:
    outcomes = list(every(model, make, starts, horizon, units, bootstrap))
    assert sum(p for p, _, _ in outcomes) == pytest.approx(1, abs=1e-12)
    return sum(p * g for p, g, _ in outcomes), sum(p * v for p, _, v in outcomes)


def warm(episodes: Episodes, model: nn.Module, state: dict[str, Tensor]) -> Episodes:
    episodes.load_state_dict(state)
    return episodes


def some_state(model: nn.Module, baseline: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    episodes = Episodes(model, discount=0.8, baseline=baseline)
    for _ in range(3):
        play(model, episodes, [0, 1], 3)
        episodes.loss()
    return episodes.state_dict()


CASES = [((1,), 3), ((1, 1), 2), ((2,), 2)]


@pytest.mark.parametrize(("hidden", "horizon"), CASES)
@pytest.mark.parametrize("baseline", [None, "mean", "optimal"])
@pytest.mark.parametrize("traces", [False, True])
def test_unbiased_for_the_discounted_return(hidden, horizon: int, baseline, traces: bool) -> None:
    model, units = policy(3, *hidden), sum(hidden) + 1
    state = some_state(model, baseline) if baseline else {}

    def make() -> Episodes:
        return warm(Episodes(model, discount=0.8, baseline=baseline, discount_from="start", traces=traces), model, state)

    mean, loss = expected(model, make, [0], horizon, units)
    exact = -value(probabilities(model), 0, horizon, 0.8)
    assert torch.allclose(loss, exact.detach(), rtol=0, atol=1e-10)
    assert torch.allclose(mean, flat(model, exact), rtol=0, atol=1e-10)
    assert mean.abs().max() > 0.05


@pytest.mark.parametrize("traces", [False, True])
def test_a_bootstrap_stands_for_what_follows_a_cut(traces: bool) -> None:
    model = policy(4, 1)

    def make() -> Episodes:
        return Episodes(model, discount=0.8, baseline=None, discount_from="start", traces=traces)

    mean, loss = expected(model, make, [0], 2, 2, torch.tensor([1.7], dtype=F64))
    exact = -value(probabilities(model), 0, 2, 0.8, 1.7)
    assert torch.allclose(loss, exact.detach(), rtol=0, atol=1e-10)
    assert torch.allclose(mean, flat(model, exact), rtol=0, atol=1e-10)
    cut = -value(probabilities(model), 0, 2, 0.8)
    assert (flat(model, cut) - mean).abs().max() > 1e-2


@pytest.mark.parametrize("traces", [False, True])
def test_discounted_from_the_decision_every_step_is_a_first_one(traces: bool) -> None:
    """sum_t E[d E[G_t | s_t] / d theta], where neither s_t nor what is decided after t moves with theta."""
    model, horizon, discount = policy(5, 1), 3, 0.7
    p = probabilities(model)
    held = p.detach()
    surrogate, reach = torch.zeros((), dtype=F64), {0: 1.0}
    for t in range(horizon):
        after: dict[int, float] = {}
        for state, chance in reach.items():
            for action in (0, 1):
                following, done = move(state, action)
                later = 0.0 if done else float(value(held, following, horizon - t - 1, discount))
                surrogate = surrogate - chance * p[state, action] * (REWARD[state, action] + discount * later)
                if not done:
                    after[following] = after.get(following, 0.0) + chance * float(held[state, action])
        reach = after
    mean, _ = expected(model, lambda: Episodes(model, discount=discount, baseline=None, traces=traces), [0], horizon, 2)
    assert torch.allclose(mean, flat(model, surrogate), rtol=0, atol=1e-10)


def test_leave_one_out_over_environments_is_unbiased_though_they_end_at_different_times() -> None:
    model = policy(6, 1)

    def make(baseline="leave-one-out") -> Episodes:
        return Episodes(model, discount=0.8, baseline=baseline, discount_from="start")

    outcomes = list(every(model, make, [0, 1], 2, 2))
    mean = sum(p * g for p, g, _ in outcomes)
    p = probabilities(model)
    exact = -(value(p, 0, 2, 0.8) + value(p, 1, 2, 0.8)) / 2
    assert torch.allclose(mean, flat(model, exact), rtol=0, atol=1e-10)
    plain = list(every(model, lambda: make(None), [0, 1], 2, 2))
    assert max(float((a[1] - b[1]).abs().max()) for a, b in zip(outcomes, plain, strict=True)) > 0.1  # it does something


@pytest.mark.parametrize("baseline", [None, "mean", "optimal"])
@pytest.mark.parametrize("autoreset", [False, "same-step"])
@pytest.mark.parametrize("discount_from", ["start", "decision"])
def test_traces_and_stored_graphs_give_the_same_gradient_and_the_same_baseline(baseline, autoreset, discount_from) -> None:
    model, results = policy(7, 3, 2), []
    for traces in (False, True):
        torch.manual_seed(1)
        episodes = Episodes(
            model, discount=0.9, baseline=baseline, traces=traces, autoreset=autoreset, discount_from=discount_from
        )
        rows = []
        for _ in range(3):
            play(model, episodes, [0, 1, 1, 0], 6)
            loss = episodes.loss(torch.tensor([1.0, 2.0, 3.0, 4.0]))
            rows += [flat(model, loss), loss.detach().view(1)]
        results.append(torch.cat(rows + [v.flatten() for v in episodes.state_dict().values()]))
    assert torch.allclose(*results, rtol=1e-10, atol=1e-12)
    assert results[0].abs().max() > 0.1


def test_a_batch_is_the_mean_of_its_environments_each_to_its_own_end() -> None:
    model = policy(8, 2)
    starts, horizon = [0, 1, 1], 4
    digits = tuple(torch.randint(2, (3 * 3 * horizon,), generator=torch.Generator().manual_seed(3)).tolist())

    def one(starts: list[int], digits: tuple[int, ...]) -> Tensor:
        episodes = Episodes(model, discount=0.8, baseline=None)
        with taken_over(named_nodes(model).values(), source=Forced(digits)):
            play(model, episodes, starts, horizon)
        return flat(model, episodes.loss())

    # digits run over steps, then nodes, then environments (two hidden units each, then one action)
    layout = [(t, e) for t in range(horizon) for node in (2, 1) for e in range(3) for _ in range(node)]
    alone = [one([starts[e]], tuple(d for d, (_, f) in zip(digits, layout, strict=True) if f == e)) for e in range(3)]
    assert torch.allclose(one(starts, digits), torch.stack(alone).mean(0), rtol=1e-12, atol=1e-13)


def test_autoreset_starts_a_new_episode_and_shares_nothing_with_it() -> None:
    model = policy(9, 2)
    rewards, done = [1.0, 2.0, 5.0, 7.0], [False, True, False, False]

    def one(rewards: list[float], done: list[bool], seeds: range, **options) -> tuple[Tensor, Tensor]:
        episodes = Episodes(model, discount=0.5, baseline=None, discount_from="start", **options)
        for r, d, seed in zip(rewards, done, seeds, strict=True):
            torch.manual_seed(seed)
            with episodes.acting():
                model(observe([0]))
            episodes.reward([r], [d])
        loss = episodes.loss()
        return flat(model, loss), loss.detach()

    both, first, second = (
        one(rewards, done, range(4), autoreset="same-step"),
        one(rewards[:2], done[:2], range(2)),
        one(rewards[2:], done[2:], range(2, 4)),
    )
    assert torch.allclose(both[0], first[0] + second[0], rtol=1e-12) and both[1] == first[1] + second[1]
    assert both[1] == -(1 + 0.5 * 2) - (5 + 0.5 * 7)
    ended = one(rewards, done, range(4))  # without autoreset the last two steps do not count
    assert torch.equal(ended[0], first[0]) and ended[1] == first[1]


def test_nodes_left_out_back_propagate_by_themselves_and_repeated_calls_are_decisions_each() -> None:
    model = nn.ModuleDict({"hidden": Bernoulli(), "out": Categorical(), "rectifier": NoisyReLU()})
    w = torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=F64, requires_grad=True)

    def grad(**options) -> Tensor:
        torch.manual_seed(2)
        episodes = Episodes(model, discount=1.0, baseline=None, **options)
        with episodes.acting():
            h = model["hidden"](observe([0, 1]) @ w)
            h = h + model["hidden"](0.5 * h @ w)
            model["out"](model["rectifier"](h) @ w.detach())
        assert [d.name for d in episodes._pending] == (["out"] if options else ["hidden", "hidden:1", "out"])
        episodes.reward([1.0, 1.0])
        return torch.autograd.grad(episodes.loss(), w)[0]

    assert grad().any() and grad(nodes=["out"]).any() and not torch.allclose(grad(), grad(nodes="out"))
    with pytest.raises(ValueError, match="no discrete node is called 'rectifier'"):
        Episodes(model, nodes=["rectifier"])


def test_a_learned_baseline_is_fitted_to_the_returns() -> None:
    torch.manual_seed(0)
    model = policy(10, 2)
    baseline = nn.ModuleDict({"1": nn.Linear(2, 1).double(), "3": nn.Linear(2, 1).double()})
    episodes = Episodes(model, discount=0.8, baseline=baseline)
    optimizer = torch.optim.Adam(episodes.parameters(), 0.1)
    for _ in range(150):
        play(model, episodes, [0, 1], 1)
        optimizer.zero_grad()
        episodes.loss().backward()
        optimizer.step()
    p = probabilities(model).detach()
    values = baseline["1"](model[0](torch.eye(2, dtype=F64))).flatten()
    assert torch.allclose(values, torch.stack([value(p, s, 1, 0.8) for s in (0, 1)]), atol=0.4)
    assert set(episodes.state_dict()) == {f"baseline.module.{n}.{k}" for n in "13" for k in ("weight", "bias")}


def test_reproducible_and_state() -> None:
    model, drawn = policy(11, 2), []
    for _ in range(2):
        torch.manual_seed(5)
        episodes = Episodes(model)
        play(model, episodes, [0, 1], 3)
        drawn.append(flat(model, episodes.loss()))
    assert torch.equal(*drawn)
    with pytest.raises(ValueError, match=r"Unexpected key"):
        episodes.load_state_dict({"x": torch.zeros(())})


def test_calls_out_of_order_and_wrong_shapes() -> None:
    model = policy(12, 2)
    episodes = Episodes(model)
    with pytest.raises(RuntimeError, match="before a decision"):
        episodes.reward([1.0])
    with pytest.raises(RuntimeError, match="at least one step"):
        episodes.loss()
    with pytest.raises(ValueError, match="no decision was taken"), episodes.acting():
        pass
    with torch.no_grad(), pytest.raises(RuntimeError, match="no_grad"), episodes.acting():
        model(observe([0]))
    with pytest.raises(KeyError), episodes.acting():
        raise KeyError
    assert all(node._handler is None for node in named_nodes(model).values())
    with episodes.acting():
        model(observe([0, 1]))
    with pytest.raises(RuntimeError, match="again before reward"), episodes.acting():
        pass
    with pytest.raises(RuntimeError, match="after every acting"):
        episodes.loss()
    for wrong in ([1.0], [[1.0], [2.0]], 1.0):
        with pytest.raises(ValueError, match=r"reward has shape .* decided for 2 environments"):
            episodes.reward(wrong)
    with pytest.raises(ValueError, match="done has shape"):
        episodes.reward([1.0, 2.0], [True])
    with pytest.raises(FloatingPointError, match="reward of step 0"):
        episodes.reward([1.0, torch.nan])
    episodes.reward([1.0, 2.0], [True, False])
    assert not episodes.over and episodes.steps == 1
    with pytest.raises(ValueError, match="bootstrap has shape"):
        episodes.loss(torch.zeros(3))
    with episodes.acting():
        model(observe([0]))
    with pytest.raises(ValueError, match="decided for 1 and 2 environments"):
        episodes.reward([1.0])
    episodes.reset()
    with episodes.acting():
        model(observe([0]))
    episodes.reward([1.0], [True])
    assert episodes.over
    for wrong, match in (
        ({"discount": 1.5}, "discount is 1.5"),
        ({"discount_from": "x"}, "discount_from"),
        ({"baseline": "x"}, "baseline"),
    ):
        with pytest.raises(ValueError, match=match):
            Episodes(model, **wrong)
    with pytest.raises(ValueError, match="traces=True forgets"):
        Episodes(model, baseline="leave-one-out", traces=True)
    alone = Episodes(model, baseline="leave-one-out")
    play(model, alone, [0], 1)
    with pytest.raises(ValueError, match="with one environment"):
        alone.loss()


@pytest.mark.parametrize("traces", [False, True])
def test_traces_keep_no_graph(traces: bool) -> None:
    model = policy(13, 2)
    episodes = Episodes(model, baseline=None, traces=traces)
    with episodes.acting():
        model(observe([0, 1]))
    logits = weakref.ref(episodes._pending[0].logits)
    episodes.reward([1.0, 2.0])
    gc.collect()
    assert (logits() is None) == traces
    assert flat(model, episodes.loss()).any()


def test_the_others_are_those_still_running_and_all_their_steps_where_none_is() -> None:
    returns = torch.tensor([[1.0, 2.0, 6.0], [4.0, 7.0, 0.0], [5.0, 0.0, 0.0]])
    running = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    actual = mean_of_others(returns, running)
    assert actual[0].tolist() == [4.0, 3.5, 1.5]
    assert actual[1, :2].tolist() == [7.0, 4.0]
    assert actual[2, 0] == (2 + 7 + 6) / 3
