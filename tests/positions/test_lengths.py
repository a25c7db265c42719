"""Units whose number changes from call to call: each estimator is right, or raises an error that names the remedy."""

from collections.abc import Callable
from functools import partial
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

import dither

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
    "learned, of any length": lambda net: dither.ScoreFunction(net, _MeanOfUnits()),
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
# What belongs to one unit says nothing of another; with local terms the mean is per unit too.
PER_UNIT = ("optimal", "optimal, K=2", "optimal, any order", "ForwardOnly, optimal", "learned")
PER_UNIT_WITH_TERMS = ("mean", "ForwardOnly")


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
        if name in PER_UNIT or (terms and name in PER_UNIT_WITH_TERMS):
            # Of one step there is one term, which all units share: what was learned of it serves any other number.
            for frozen in (False,) if first == 1 and name not in PER_UNIT else (False, True):
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
