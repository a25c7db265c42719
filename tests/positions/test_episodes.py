"""Episodes as environments are: resets in the same or in the next step, time limits with a value for what they cut off, and
traces of some of the nodes; each against the Bellman recursion, by enumeration of every trajectory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from dither import Bernoulli, Categorical, Episodes, NoisyReLU
from dither.nodes import named_nodes, taken_over
from small_mdp import F64, REWARD, Forced, flat, move, observe, policy, probabilities

DISCOUNT, HORIZON, START = 0.8, 4, 0
BEYOND = (1.7, -0.6)  # the values of the two states that stand for what a time limit cuts off
MODES = (False, "same-step", "next-step")
LIMITS = (None, 1, 2)  # steps of an episode


class Environments:
    """Copies of the small decision process, as gymnasium's vector environments: they reset themselves, or do not."""

    def __init__(self, envs: int, mode: bool | str, limit: int | None) -> None:
        self.states, self.ages, self.resetting = [START] * envs, [0] * envs, [False] * envs
        self.mode, self.limit = mode, limit

    def step(self, actions: list[int]) -> list[tuple[float, bool, bool, float]]:
        """(reward, terminated, truncated, value of what a time limit cut off) for each."""
        return [self._step(e, action) for e, action in enumerate(actions)]

    def _step(self, e: int, action: int) -> tuple[float, bool, bool, float]:
        if self.resetting[e]:
            self.states[e], self.ages[e], self.resetting[e] = START, 0, False
            return 0.0, False, False, float("nan")
        reward = float(REWARD[self.states[e], action])
        self.states[e], terminated = move(self.states[e], action)
        self.ages[e] += 1
        truncated, beyond = self.ages[e] == self.limit, BEYOND[self.states[e]]
        if (terminated or truncated) and self.mode == "same-step":
            self.states[e], self.ages[e] = START, 0
        self.resetting[e] = (terminated or truncated) and self.mode == "next-step"
        return reward, terminated, truncated, beyond if truncated else float("nan")


def play(model: nn.Module, episodes: Episodes, environments: Environments, steps: int) -> None:
    for _ in range(steps):
        with episodes.acting():
            actions = model(observe(environments.states)).argmax(-1).tolist()
        reward, terminated, truncated, beyond = zip(*environments.step(actions), strict=True)
        episodes.reward(reward, terminated, truncated=truncated, bootstrap=beyond)


def episode(p: Tensor, limit: int | None, steps: int, after: tuple[float, float]) -> tuple[Tensor, dict[int, Tensor]]:
    """(expected discounted return of one episode of at most that many steps, probability that it ends with so many left);
    where the steps end first a state is worth `after`."""
    ends: dict[int, Tensor] = {}

    def of(state: int, age: int, reach: Tensor) -> Tensor:
        if age == steps:
            return torch.tensor(after[state], dtype=F64)
        total = torch.zeros((), dtype=F64)
        for action in (0, 1):
            following, terminated = move(state, action)
            chance, over = p[state, action], terminated or age + 1 == limit
            if over:
                left = steps - age - 1
                ends[left] = ends.get(left, torch.zeros((), dtype=F64)) + reach * chance
                later = 0.0 if terminated else BEYOND[following]
            else:
                later = of(following, age + 1, reach * chance)
            total = total + chance * (REWARD[state, action] + DISCOUNT * later)
        return total

    return of(START, 0, torch.ones((), dtype=F64)), ends


def recursion(p: Tensor, mode: bool | str, limit: int | None, after: tuple[float, float]) -> Tensor:
    """The sum of the episodes' expected returns in HORIZON steps. When one begins is held: no episode is credited with those
    that come after it."""
    begins, total = {HORIZON: torch.ones((), dtype=F64)}, torch.zeros((), dtype=F64)
    for steps in range(HORIZON, 0, -1):
        if steps in begins:
            value, ends = episode(p, limit, steps, after)
            total = total + begins[steps].detach() * value
            for left, chance in ends.items():
                left -= mode == "next-step"
                if mode:
                    begins[left] = begins.get(left, 0) + begins[steps] * chance
    return total


def expected(model: nn.Module, make: Callable[[], Episodes], mode, limit, envs: int, steps: int, after=None) -> Tensor:
    """Mean of (gradient, loss) over all trajectories."""
    total, mass = torch.zeros(1, dtype=F64), 0.0
    for digits in product((0, 1), repeat=steps * envs):
        source, episodes, environments = Forced(digits), make(), Environments(envs, mode, limit)
        with taken_over(named_nodes(model).values(), source=source):
            play(model, episodes, environments, steps)
        loss = episodes.loss(None if after is None else [after[s] for s in environments.states])
        total = total + source.probability * torch.cat((flat(model, loss), loss.detach().view(1)))
        mass += source.probability
    assert mass == pytest.approx(1, abs=1e-12)
    return total


def exact(model: nn.Sequential, mode, limit, after: tuple[float, float]) -> Tensor:
    loss = -recursion(probabilities(model), mode, limit, after)
    return torch.cat((flat(model, loss), loss.detach().view(1)))


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("baseline", [None, "mean", "optimal"])
@pytest.mark.parametrize("traces", [False, True])
def test_unbiased_for_the_returns_of_all_episodes(limit, mode, baseline, traces: bool) -> None:
    model, state = policy(3), {}
    number = LIMITS.index(limit) + MODES.index(mode) + bool(baseline) + traces
    after = (None, (0.9, -1.3))[number % 2]  # what states are worth in the end
    options = {"autoreset": mode, "discount_from": "start"}
    if baseline:
        torch.manual_seed(0)
        warm = Episodes(model, discount=DISCOUNT, baseline=baseline, **options)
        play(model, warm, Environments(2, mode, limit), 3)
        warm.loss()
        state = warm.state_dict()

    def make() -> Episodes:
        episodes = Episodes(model, discount=DISCOUNT, baseline=baseline, traces=traces, **options)
        episodes.load_state_dict(state)
        return episodes

    mean = expected(model, make, mode, limit, 1, HORIZON, after)
    truth = exact(model, mode, limit, after or (0.0, 0.0))
    assert torch.allclose(mean, truth, rtol=0, atol=1e-10)
    assert truth[:-1].abs().max() > 0.01


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_leave_one_out_is_unbiased_where_environments_reset_and_are_cut_off(limit: int, mode) -> None:
    model = policy(4)

    def make(baseline) -> Episodes:
        return Episodes(model, discount=DISCOUNT, baseline=baseline, autoreset=mode, discount_from="start")

    mean, plain = (expected(model, lambda b=b: make(b), mode, limit, 2, 3) for b in ("leave-one-out", None))
    assert torch.allclose(mean, plain, rtol=0, atol=1e-10)


def hidden_policy() -> nn.Sequential:
    """Two layers of hidden units, a rectifier, and a head; the last Linear comes after every hidden decision."""
    torch.manual_seed(1)
    linear = [nn.Linear(a, b).double() for a, b in ((2, 3), (3, 2), (2, 2))]
    return nn.Sequential(linear[0], Bernoulli(), linear[1], NoisyReLU(), linear[2], Categorical())


NODES = (None, ["1"], ["5"], ["1", "5"])


@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("discount_from", ["start", "decision"])
@pytest.mark.parametrize("frozen", [(), (0,), (4,), (0, 2, 4)])
def test_traces_equal_stored_graphs_for_any_nodes_and_any_parameters(nodes, mode, discount_from, frozen) -> None:
    model, results = hidden_policy(), []
    baseline = (None, "mean", "optimal")[(NODES.index(nodes) + MODES.index(mode) + len(frozen)) % 3]
    for index in frozen:
        model[index].requires_grad_(False)
    for traces in (False, True):
        torch.manual_seed(2)
        options = {"autoreset": mode, "discount_from": discount_from, "nodes": nodes}
        episodes, environments = (
            Episodes(model, discount=DISCOUNT, baseline=baseline, traces=traces, **options),
            Environments(3, mode, 3),
        )
        for _ in range(2):
            play(model, episodes, environments, 5)
            loss, trained = episodes.loss([1.0, 2.0, 3.0]), [p for p in model.parameters() if p.requires_grad]
            gradients = ()
            if loss.requires_grad:
                gradients = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
            results.append(torch.cat([loss.detach().view(1), *(g.flatten() for g in gradients)]))
        results.append(torch.cat([t.flatten() for t in episodes.state_dict().values()] or [loss.detach().view(1)]))
    for stored, traced in zip(results[:3], results[3:], strict=True):
        zeros = torch.zeros(len(traced) - len(stored), dtype=F64) if len(traced) > len(stored) else stored[:0]
        assert torch.allclose(torch.cat((stored, zeros)), traced, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("traces", [False, True])
@pytest.mark.parametrize("baseline", [None, "mean", "optimal"])
def test_a_loss_of_reset_steps_alone_is_zero_and_teaches_the_baseline_nothing(traces: bool, baseline) -> None:
    model = policy(5)
    episodes = Episodes(model, discount=DISCOUNT, baseline=baseline, autoreset="next-step", traces=traces)

    def one(reward: float, done: bool) -> Tensor:
        with episodes.acting():
            model(observe([0]))
        episodes.reward([reward], [done])
        return episodes.loss()

    one(3.0, True)
    before = {name: tensor.clone() for name, tensor in episodes.state_dict().items()}
    loss = one(0.0, False)  # the environment is reset: nothing was earned
    assert loss == 0 and not flat(model, loss).any()
    ratio = {n: t for n, t in episodes.state_dict().items() if n.endswith("numerator")}
    for name, numerator in ratio.items():
        other = name.replace("numerator", "denominator")
        value, earlier = numerator / episodes.state_dict()[other], before[name] / before[other]
        assert torch.allclose(value, earlier, equal_nan=True)
    assert flat(model, one(2.0, False)).any()


def test_true_is_the_default_of_gymnasium() -> None:
    model, gradients = policy(5), []
    for mode in (True, "next-step", "same-step"):
        torch.manual_seed(0)
        episodes = Episodes(model, discount=DISCOUNT, baseline=None, autoreset=mode)
        play(model, episodes, Environments(3, "next-step", 2), 6)
        gradients.append(flat(model, episodes.loss()))
    assert torch.equal(gradients[0], gradients[1]) and not torch.allclose(gradients[0], gradients[2])


def test_what_does_not_fit_is_refused() -> None:
    model = policy(6)
    with pytest.raises(ValueError, match="autoreset is 'disabled': it must be False, 'same-step' or 'next-step'"):
        Episodes(model, autoreset="disabled")  # type: ignore[arg-type]
    episodes = Episodes(model, autoreset="next-step")

    def act() -> None:
        with episodes.acting():
            model(observe([0, 1]))

    act()
    with pytest.raises(ValueError, match=r"environments \[0\] were cut off, but bootstrap is missing"):
        episodes.reward([1.0, 1.0], truncated=[True, False])
    with pytest.raises(ValueError, match="truncated is missing"):
        episodes.reward([1.0, 1.0], bootstrap=[1.0, 1.0])
    with pytest.raises(ValueError, match="bootstrap has shape"):
        episodes.reward([1.0, 1.0], truncated=[True, False], bootstrap=[1.0])
    with pytest.raises(FloatingPointError, match="bootstrap of step 0"):
        episodes.reward([1.0, 1.0], truncated=[True, False], bootstrap=[torch.nan, 0.0])
    episodes.reward([1.0, 1.0], [False, True], truncated=[False, True], bootstrap=[torch.nan, torch.nan])
    act()
    for reward, done in (0.0, True), (1.0, False):  # as environments that reset in the same step have them
        with pytest.raises(ValueError, match=r"environments \[1\] have a reward or end in step 1 .*autoreset='same-step'"):
            episodes.reward([1.0, reward], [False, done])
    episodes.reset()
    act()
    episodes.reward([1.0, 1.0], [False, True])
