"""A window of calls between two optimizer steps is one call of the concatenated batch, for every estimator that learns online.

Every example has the same noise in both, so that the gradients and the states are equal, not alike.
"""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import dither
from dither import noise
from dither.estimators.core.baselines.windows import MovingAverages, Window

F64 = torch.float64
STEPS = 3
SPLITS = {"even": (4, 4, 4), "uneven": (1, 8, 3)}
ESTIMATORS: dict[str, Callable[[nn.Module], dither.Estimator]] = {
    "none": dither.ScoreFunction,
    "mean": partial(dither.ScoreFunction, baseline="mean", decay=0.5),
    "optimal": partial(dither.ScoreFunction, baseline="optimal", decay=0.5),
    "optimal, K=3": partial(dither.ScoreFunction, baseline="optimal", samples=3, decay=0.5),
    "optimal, loop": partial(dither.ScoreFunction, baseline="optimal", samples=2, decay=0.5, vectorize=False),
    "optimal, any order": partial(dither.ScoreFunction, baseline="optimal", any_order=True, decay=0.5),
    "leave-one-out": partial(dither.ScoreFunction, baseline="leave-one-out", samples=2),
    "NVIL": lambda net: dither.NVIL(net, baseline=_modules(), decay=0.5),
    "learned": lambda net: dither.ScoreFunction(net, baseline=_modules()),
    "ForwardOnly": partial(dither.ForwardOnly, baseline="mean"),
    "ForwardOnly, optimal": partial(dither.ForwardOnly, baseline="optimal"),
    "REBAR": partial(dither.REBAR, decay=0.5),
    "DoubleCV": partial(dither.DoubleCV, decay=0.5),
    "DisARM": dither.DisARM,
    "PerNode": lambda net: dither.PerNode(
        net,
        {
            "1": partial(dither.ScoreFunction, baseline="optimal", decay=0.5),
            "*": partial(dither.ScoreFunction, baseline="mean", decay=0.5),
        },
    ),
}
LEARNING = [name for name in ESTIMATORS if name not in ("none", "leave-one-out", "DisARM", "learned")]
TOGETHER = ("REBAR", "DoubleCV", "DisARM")  # binary nodes only; terms are summed


def _modules() -> nn.ModuleDict:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.ModuleDict({"1": nn.Linear(5, 1), "3": nn.Linear(4, 1)}).double()


class Training:
    """An estimator, its net and optimizer, and the data of a step."""

    def __init__(self, name: str, local: bool = False) -> None:
        torch.manual_seed(0)
        layers = [nn.Linear(4, 5), dither.Bernoulli(), nn.Linear(5, 4), dither.Bernoulli(), nn.Linear(4, 3)]
        self.name, self.local, self.net = name, local, nn.Sequential(*layers).double()
        self.x, self.target = torch.randn(STEPS, 12, 4, dtype=F64), torch.rand(STEPS, 12, 3, dtype=F64)
        self.estimator = ESTIMATORS[name](self.net)
        self.optimizer = torch.optim.SGD([*self.net.parameters(), *self.estimator.parameters()], 0.3)

    def loss(self, step: int, rows: Tensor) -> Tensor:
        def closure() -> Tensor:
            error = (self.net(self.x[step, rows]) - self.target[step, rows]).square() + 1.0
            return error if self.local else error.sum(1)

        torch.manual_seed(noise.step_seed(0, step))
        with noise.examples(rows):
            return self.estimator(closure)

    def accumulate(self, step: int, split: tuple[int, ...]) -> Iterator[int]:
        """Micro-batch by micro-batch."""
        for number, rows in enumerate(torch.arange(12).split(list(split))):
            (self.loss(step, rows) * (len(rows) / 12)).backward()
            yield number

    def gradients(self) -> list[Tensor]:
        return [p.grad.clone() for p in self.optimizer.param_groups[0]["params"] if p.grad is not None]


def equal(first: Training, second: Training) -> None:
    for a, b in zip(first.gradients(), second.gradients(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    one, other = first.estimator.state_dict(), second.estimator.state_dict()
    for key in one.keys() | other.keys():  # averages of the whole window, whichever its calls
        if ".window" not in key and not key.startswith(("rows.", "window.")) and "window_" not in key:
            torch.testing.assert_close(one[key], other[key], rtol=1e-12, atol=1e-13)


CASES = [(name, local) for name in ESTIMATORS for local in (False, True) if not (local and name in TOGETHER)]


@pytest.mark.parametrize(("split", "to_none"), [("even", True), ("uneven", True), ("uneven", False)])
@pytest.mark.parametrize(("name", "local"), CASES)
def test_a_window_is_one_call_of_the_concatenated_batch(name: str, local: bool, split: str, to_none: bool) -> None:
    whole, parts = Training(name, local), Training(name, local)
    for step in range(STEPS):
        for training, sizes in ((whole, (12,)), (parts, SPLITS[split])):
            training.optimizer.zero_grad(set_to_none=to_none)
            for _ in training.accumulate(step, sizes):
                with torch.no_grad():  # an evaluation is not of the window
                    training.loss(0, torch.arange(12))
        equal(whole, parts)
        whole.optimizer.step(), parts.optimizer.step()
        assert not any("window" in key for key in parts.estimator.state_dict())


@pytest.mark.parametrize("at", range(2))
@pytest.mark.parametrize("name", LEARNING)
def test_a_state_holds_a_pending_window(name: str, at: int) -> None:
    whole, parts = Training(name), Training(name)
    for step in range(STEPS):
        whole.optimizer.zero_grad(), parts.optimizer.zero_grad()
        list(whole.accumulate(step, (12,)))
        for number in parts.accumulate(step, (1, 8, 3)):
            if number == at:
                state = {key: tensor.clone() for key, tensor in parts.estimator.state_dict().items()}
                assert any("window" in key for key in state)
                learned = [p for p in parts.estimator.parameters()]
                again = ESTIMATORS[name](parts.net)
                again.load_state_dict(state)
                assert all(torch.equal(state[key], tensor) for key, tensor in again.state_dict().items())
                if not learned:  # else the optimizer and the gradients are of the former one's
                    parts.estimator = again
        equal(whole, parts)
        whole.optimizer.step(), parts.optimizer.step()


@pytest.mark.parametrize("name", [n for n in LEARNING if n not in ("NVIL", "ForwardOnly, optimal")])
def test_a_copy_of_a_window_begins_anew(name: str) -> None:
    """A copied model has no gradients: what was accumulated stays with the original."""
    training = Training(name)
    next(training.accumulate(0, (4, 8)))
    moving = [value for value in _averages(training.estimator) if value]
    assert moving and all(isinstance(w, Window) and w.is_pending() for windows in moving for w in windows.values())
    for duplicate in (copy.deepcopy, lambda windows: pickle.load(io.BytesIO(pickle.dumps(windows)))):
        for windows in moving:
            for copied, own in zip(duplicate(windows).values(), windows.values(), strict=True):
                assert copied.parameters == () and own.parameters and torch.equal(copied.mean, own.mean)


def _averages(estimator: dither.Estimator) -> Iterator[dict[str, Window]]:
    yield from (part._windows for part in estimator.modules() if isinstance(part, MovingAverages))


@pytest.mark.parametrize("ends", ["step", "zero_grad", "no backward"])
@pytest.mark.parametrize("name", ["mean", "optimal", "REBAR", "DoubleCV"])
def test_a_window_ends(name: str, ends: str) -> None:
    """With the step; or where gradients are thrown away; calls without a backward pass, as of a warm-up, are none."""
    training = Training(name)
    for call in range(2):
        loss = training.loss(0, torch.arange(12))
        if ends != "no backward":
            loss.backward()
        if ends == "step":
            training.optimizer.step()
        if ends == "zero_grad":
            training.optimizer.zero_grad()
        state = training.estimator.state_dict()
        assert state and not any("window" in key for key in state), call
    assert any(float(tensor.abs().max()) > 0 for tensor in state.values())
