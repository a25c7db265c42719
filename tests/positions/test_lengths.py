"""Units whose number changes from call to call: each estimator is right, or raises an error that names the remedy."""

from collections.abc import Callable
from functools import partial
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

import dither
from dither.estimators.core.baselines.positions import common_units, fitted

F64 = torch.float64
LENGTHS = list(permutations((1, 3, 5), 2))


class PerStep(nn.Module):
    """A sequence of steps with three units each, (batch, steps, 3), or flat (batch, units)."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.flat, self.weight, self.node = flat, nn.Parameter(torch.tensor([0.3, -0.7, 0.2], dtype=F64)), dither.Bernoulli()

    def forward(self, steps: int) -> Tensor:
        logits = self.weight * torch.linspace(0.5, 1.5, steps, dtype=F64).unsqueeze(1) + torch.zeros(4, 1, 1, dtype=F64)
        return self.node(logits.flatten(1) if self.flat else logits).reshape(4, steps, 3)

    def cost(self, steps: int, terms: bool) -> Tensor:
        cost = (self(steps).sum(2) - 0.4).square()
        return cost if terms else cost.sum(1)


ESTIMATORS: dict[str, Callable[[nn.Module], dither.Estimator]] = {
    "none": dither.ScoreFunction,
    "mean": partial(dither.ScoreFunction, baseline="mean", decay=0.5),
    "optimal": partial(dither.ScoreFunction, baseline="optimal"),
    "optimal, K=2": partial(dither.ScoreFunction, baseline="optimal", samples=2),
    "optimal, any order": partial(dither.ScoreFunction, baseline="optimal", any_order=True),
    "leave-one-out": partial(dither.ScoreFunction, baseline="leave-one-out", samples=2),
    "learned, of any length": lambda net: dither.ScoreFunction(net, baseline=_MeanOfUnits()),
    "learned": lambda net: dither.NVIL(net),
    "REBAR": dither.REBAR,
    "DoubleCV": dither.DoubleCV,
    "DisARM": dither.DisARM,
    "StraightThrough": dither.StraightThrough,
    "NodePerturbation": dither.NodePerturbation,
    "SPSA": dither.SPSA,
    "ForwardOnly": partial(dither.ForwardOnly, baseline="mean"),
    "ForwardOnly, optimal": partial(dither.ForwardOnly, baseline="optimal"),
}
REFUSED = ("learned",)  # a linear map of so many logits


class _MeanOfUnits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=F64))

    def forward(self, logits: Tensor) -> Tensor:
        return self.scale * logits.flatten(1).mean(1)


@pytest.mark.parametrize("terms", [False, True], ids=["cost", "terms"])
@pytest.mark.parametrize("flat", [False, True], ids=["steps", "flat"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_other_lengths_are_right_or_refused(name: str, flat: bool, terms: bool) -> None:
    for first, second in LENGTHS:
        torch.manual_seed(0)
        net = PerStep(flat)
        estimator = ESTIMATORS[name](net)
        estimator(partial(net.cost, first, terms)).backward()
        net.zero_grad()  # or the window would go on, in which nothing is known yet
        state = {key: tensor.clone() for key, tensor in estimator.state_dict().items()}
        if name in REFUSED:
            for frozen in (False, True):
                with pytest.raises((ValueError, RuntimeError)) as caught, _frozen(estimator, frozen):
                    estimator(partial(net.cost, second, terms))
                assert "leave-one-out" in "\n".join((str(caught.value), *getattr(caught.value, "__notes__", ())))
            after = estimator.state_dict()
            assert all(torch.equal(after[key], tensor) for key, tensor in state.items())  # the refused call left nothing
            second = first
        net.zero_grad()
        loss = estimator(partial(net.cost, second, terms))
        loss.backward()
        assert loss.isfinite() and net.weight.grad is not None and net.weight.grad.isfinite().all()
        estimator(partial(net.cost, first, terms)).backward()


def _frozen(estimator: dither.Estimator, frozen: bool):
    return estimator.frozen() if frozen else torch.enable_grad()


# --- baselines of positions that come and go ------------------------------------------------------------------------------
class Ragged(nn.Module):
    """(1, steps, 2) binary units or (1, steps, 1) categories, and a cost in which steps meet."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self.node = dither.Bernoulli() if node == "binary" else dither.Categorical()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.7], dtype=F64))

    def cost(self, steps: int, terms: bool) -> Tensor:
        logits = (self.weight * torch.linspace(0.5, 1.5, steps, dtype=F64).unsqueeze(1)).unsqueeze(0)
        h = self.node(logits) if isinstance(self.node, dither.Bernoulli) else self.node(logits.unsqueeze(2)).squeeze(2)
        each = torch.sin(2 * h @ torch.tensor([1.0, 0.6], dtype=F64) + 3)
        cost = 5 + each + 0.5 * each.cumsum(1).square()
        return cost if terms else cost.sum(1)


@pytest.mark.parametrize("terms", [False, True], ids=["cost", "terms"])
@pytest.mark.parametrize("node", ["binary", "categorical"])
@pytest.mark.parametrize("baseline", ["mean", "optimal"])
def test_baselines_of_varying_lengths_are_unbiased_and_help(baseline, node: str, terms: bool) -> None:
    """By the sum over all outcomes, while they learn; K = 2 where there are few."""
    torch.manual_seed(0)
    net = Ragged(node)
    for lengths, samples in (((2, 3, 1, 2), 1), ((1, 2), 2)):
        estimator = dither.ScoreFunction(net, baseline=baseline, samples=samples, decay=0.5)
        for steps in lengths:
            cost = partial(net.cost, steps, terms)
            dither.testing.assert_unbiased(estimator, net, cost)
            for _ in range(3):
                torch.autograd.grad(estimator(cost), net.weight)
        plain = dither.ScoreFunction(net, samples=samples)
        variances = [dither.exact.moments(e, cost).variance["weight"].sum() for e in (estimator, plain)]
        assert variances[0] < 0.7 * variances[1]


def test_a_mean_is_kept_for_the_dimension_that_stays() -> None:
    """By hand: the mean of two calls of 2 and 3 steps, per feature; a state that another estimator takes and goes on from."""
    torch.manual_seed(0)
    net, costs, expected = PerStep(flat=False), [], torch.zeros((), dtype=F64)
    estimator = dither.ScoreFunction(net, baseline="mean", decay=0.5)

    def recorded(steps: int) -> Tensor:
        costs.append(net.cost(steps, True) * torch.linspace(1, 2, steps, dtype=F64))
        return costs[-1]

    for steps in (2, 3):
        estimator(partial(recorded, steps))
        expected = (costs[-1].detach().mean() + expected) / 2
    state = estimator.state_dict()
    assert state["baseline.node.numerator"].shape == (1, 3)
    assert torch.allclose(state["baseline.node.numerator"], expected.expand(1, 3), atol=1e-12)
    again = dither.ScoreFunction(net, baseline="mean", decay=0.5)
    again.load_state_dict(state)
    gradients = []
    for other in (estimator, again):
        torch.manual_seed(3)
        gradients += torch.autograd.grad(other(partial(net.cost, 5, True)), net.weight)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("first", "second"), [((2, 3), (2, 3)), ((2, 3), (5, 3)), ((2, 3), (3,)), ((4,), (5,)), ((0, 3), (2, 3))]
)
def test_statistics_of_two_shapes(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    averages = fitted(torch.rand(2, *first, dtype=F64), second)
    assert averages.isfinite().all() and torch.broadcast_shapes(averages.shape, (2, *second)) == (2, *second)
    assert averages.dim() == 1 + len(second) and common_units(first, second) == common_units(second, first)


def test_calls_of_a_window_may_differ_in_length() -> None:
    """Accumulated calls of 2 and 4 steps count as one: the mean over rows of each step's mean."""
    torch.manual_seed(0)
    net, costs = PerStep(flat=False), {}
    estimator = dither.ScoreFunction(net, baseline="mean", decay=0.0)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def recorded(steps: int) -> Tensor:
        costs[steps] = net.cost(steps, True)
        return costs[steps]

    for steps in (2, 4):
        estimator(partial(recorded, steps)).backward()
    optimizer.step()
    expected = (costs[2].detach().mean() + costs[4].detach().mean()) / 2
    assert torch.allclose(estimator.state_dict()["baseline.node.numerator"], expected.expand(1, 3), atol=1e-12)


# --- calls that come and go -----------------------------------------------------------------------------------------------
class Walk(nn.Module):
    """One node, called once for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.node = nn.Parameter(torch.tensor([[0.3, -0.4]], dtype=F64)), dither.Bernoulli()

    def cost(self, steps: int) -> Tensor:
        h = sum(self.node(self.weight * (0.5 + step)) for step in range(steps))
        return 5 + torch.sin(h.sum(1)) * h[:, 0]


@pytest.mark.parametrize("baseline", ["mean", "optimal"])
def test_a_call_never_made_before_starts_from_the_one_before_it(baseline) -> None:
    """Unbiased while it learns, though the earlier call's averages have moved in the same call; and as good."""
    net = Walk()
    estimator = dither.ScoreFunction(net, baseline=baseline, decay=0.5)
    cost = partial(net.cost, 3)
    torch.manual_seed(0)
    for _ in range(4):
        torch.autograd.grad(estimator(partial(net.cost, 1)), net.weight)
    dither.testing.assert_unbiased(estimator, net, cost)
    steady = dither.ScoreFunction(net, baseline=baseline, decay=0.5)
    for steps in (1, 1, 3):  # a cost that is known is subtracted whole, in calls that were never made too
        (gradient,) = torch.autograd.grad(steady(lambda n=steps: net.cost(n) * 0 + 5), net.weight)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("flat", [False, True], ids=["steps", "flat"])
@pytest.mark.parametrize(("first", "second"), LENGTHS)
def test_one_mean_serves_all_lengths(first: int, second: int, flat: bool) -> None:
    torch.manual_seed(0)
    net = PerStep(flat)
    estimator = ESTIMATORS["mean"](net)
    b = estimator(partial(net.cost, first, False)).detach()  # the average of one call
    gradients = []
    for other, closure in (
        (estimator, lambda: net.cost(second, False)),
        (dither.ScoreFunction(net), lambda: net.cost(second, False) - b),
    ):
        torch.manual_seed(1)
        gradients += torch.autograd.grad(other(closure), net.weight)
    assert torch.allclose(*gradients, rtol=1e-12, atol=1e-12)
