"""Local credit follows every call, and loses nothing: whatever way a unit takes to a term, the mean gradient is right."""

from __future__ import annotations

import ctypes
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dither import Bernoulli, DisARM, ScoreFunction, exact

DOUBLE = torch.float64


class Net(nn.Module):
    """Three units of one example."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Bernoulli()
        self.logits = nn.Parameter(torch.tensor([[0.4, -0.7, 0.2]], dtype=DOUBLE))
        self.cell = nn.GRUCell(1, 2, dtype=DOUBLE)
        for number, parameter in enumerate(self.cell.parameters(), 1):
            parameter.data = torch.linspace(-1.0, 1.0, parameter.numel(), dtype=DOUBLE).view_as(parameter) + 0.2 * number
        self.register_buffer("state", torch.zeros(1, 2, dtype=DOUBLE))
        self.memory = torch.zeros(4, dtype=DOUBLE)

    def forward(self) -> Tensor:
        return self.node(self.logits)


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h):
        return torch.from_numpy(h.detach().numpy() ** 2)

    @staticmethod
    def backward(ctx, grad):
        return grad


def scripted(h: Tensor) -> Tensor:
    unit = torch.jit.CompilationUnit("""
def of(h: Tensor) -> Tensor:
    return torch.ones_like(h) * float(h.sum().item())
""")
    return unit.of(h)


@torch.library.custom_op("dither_tests::filled", mutates_args=("out",))
def filled(out: Tensor, h: Tensor) -> None:
    out.copy_(h.sum().expand(out.shape))


def new(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=DOUBLE)


def done(change: Callable[[Tensor], object], tensor: Tensor | None = None) -> Tensor:
    """A tensor after it was changed."""
    tensor = new(1) if tensor is None else tensor
    change(tensor)
    return tensor


def in_numpy(net: Net, value: float) -> Tensor:
    net.memory.numpy()[2] = value
    return net.memory[2:3] * 1.0


def by_pointer(h: Tensor) -> Tensor:
    """As an extension does it that is given addresses."""
    out = new(1)
    ctypes.memmove(out.data_ptr(), h.data_ptr(), 8)
    return out


def by_threads(net: Net, work: Callable[[Tensor], float], h: Tensor) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return torch.tensor(list(pool.map(work, [h])), dtype=DOUBLE)


def unrolled(net: Net, h: Tensor) -> Tensor:
    state = new(1, 2)
    for part in (h, h * 0, h * 0):
        state = net.cell(part.view(1, 1), state)
    return state.sum(1)


def kept_state(net: Net, h: Tensor) -> Tensor:
    net.state.zero_()
    net.state[:, 1] += h
    return net.state.sum(1)


def sparse(h: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), h, (2,)).to_dense()[:1]


# Of the first unit, (1,): a number that depends on it.
WAYS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "arithmetic": lambda net, h: 2 * h,
    "add_": lambda net, h: done(lambda t: t.add_(h)),
    "item assigned": lambda net, h: done(lambda t: t.__setitem__(0, h[0]), new(2))[:1],
    "out=": lambda net, h: done(lambda t: torch.add(h, 1.0, out=t)),
    "index_put_": lambda net, h: done(lambda t: t.index_put_((torch.zeros(1, dtype=torch.int64),), h)),
    "index_put_ by it": lambda net, h: done(lambda t: t.index_put_((h.long(),), torch.ones(1, dtype=DOUBLE)), new(2))[1:],
    "scatter_": lambda net, h: done(lambda t: t.scatter_(0, h.long(), 1.0), new(2))[1:],
    "masked_fill_": lambda net, h: done(lambda t: t.masked_fill_(h > 0, 3.0)),
    "foreach": lambda net, h: done(lambda t: torch._foreach_add_([t], [h])),
    "copy to a view": lambda net, h: done(lambda t: t.view(2, 2)[1].copy_(h.expand(2)), new(4))[3:],
    ".data": lambda net, h: done(lambda t: t.data.copy_(h)),
    "set_": lambda net, h: done(lambda t: t.set_(h.clone())),
    "resize_": lambda net, h: done(lambda t: t.resize_(1 + int(h.numel())).copy_(h.expand(2)))[:1],
    "where": lambda net, h: torch.where(h > 0.5, torch.full_like(h, 2.0), torch.full_like(h, -1.0)),
    "gather": lambda net, h: torch.tensor([1.0, 4.0], dtype=DOUBLE).gather(0, h.long()),
    "lookup": lambda net, h: torch.tensor([1.0, 4.0], dtype=DOUBLE)[h.long()],
    "argmax": lambda net, h: torch.cat((h, h * 0 + 0.5)).argmax(0, keepdim=True).double(),
    "sort": lambda net, h: torch.cat((h, h * 0 + 0.5)).sort().values[:1],
    "unique": lambda net, h: torch.full((1,), float(len(torch.cat((h, h * 0)).unique())), dtype=DOUBLE),
    "nonzero": lambda net, h: torch.full((1,), float(len(h.nonzero())), dtype=DOUBLE),
    "mask's length": lambda net, h: torch.full((1,), float(h[h > 0.5].numel()), dtype=DOUBLE),
    "repeat_interleave": lambda net, h: torch.full((1,), float(len(new(1).repeat_interleave(h.long()))), dtype=DOUBLE),
    "bincount": lambda net, h: h.long().bincount(minlength=2)[1:].double(),
    "complex": lambda net, h: torch.complex(h, h).abs(),
    "bytes": lambda net, h: h.clone(memory_format=torch.contiguous_format).view(torch.uint8)[7:].double(),
    "sparse": lambda net, h: sparse(h),
    "conv": lambda net, h: torch.conv1d(h.view(1, 1, 1), torch.ones(1, 1, 1, dtype=DOUBLE)).view(1),
    "einsum": lambda net, h: torch.einsum("i,i->i", h, h),
    "vmap": lambda net, h: torch.func.vmap(lambda t: t * 2)(h),
    "grad": lambda net, h: torch.func.grad(lambda t: (t * h).sum())(torch.ones(1, dtype=DOUBLE)),
    "Function": lambda net, h: Squared.apply(h),
    "custom op": lambda net, h: done(lambda t: torch.ops.dither_tests.filled(t, h)),
    "TorchScript": lambda net, h: scripted(h),
    "cond": lambda net, h: torch.cond(h.sum() > 0.5, lambda t: t + 1, lambda t: t - 1, (h.detach(),)),
    "RNN": unrolled,
    "kept state": kept_state,
    "item": lambda net, h: torch.full((1,), h.item(), dtype=DOUBLE),
    "bool": lambda net, h: torch.full((1,), 2.0 if h > 0.5 else 1.0, dtype=DOUBLE),
    "tolist": lambda net, h: torch.tensor(h.tolist(), dtype=DOUBLE),
    "numpy": lambda net, h: torch.from_numpy(h.detach().numpy() + 1),
    "array": lambda net, h: torch.from_numpy(np.sqrt(np.asarray(h.detach()))),
    "numpy, in place": lambda net, h: done(lambda t: t.numpy().__setitem__(0, h.detach().numpy()[0])),
    "numpy's own memory": lambda net, h: in_numpy(net, float(h)),
    "dlpack": lambda net, h: torch.from_dlpack(np.from_dlpack(h.detach()) * 2),
    "printed": lambda net, h: torch.full((1,), float("1." in str(h)), dtype=DOUBLE),
    "formatted": lambda net, h: torch.full((1,), float(f"{h[0]:.1f}"), dtype=DOUBLE),
    "pickled": lambda net, h: torch.full((1,), float(pickle.loads(pickle.dumps(h.detach()))), dtype=DOUBLE),
    "contained": lambda net, h: torch.full((1,), float(1.0 in h), dtype=DOUBLE),
    "compared": lambda net, h: torch.full((1,), float(torch.equal(h, new(1))), dtype=DOUBLE),
    "range": lambda net, h: torch.full((1,), float(len(range(int(h)))), dtype=DOUBLE),
    "apply_": lambda net, h: h.detach().clone().apply_(lambda v: v + 1),
    "pointer": lambda net, h: by_pointer(h),
    "threads": lambda net, h: by_threads(net, lambda t: float(t.detach().numpy()[0]) + 1, h),
    "threads, item": lambda net, h: by_threads(net, lambda t: (t * 2).item(), h),
    "threads, in place": lambda net, h: done(lambda t: by_threads(net, lambda s: t.add_(s) is None, h)),
}


def terms(net: Net, way: Callable[[Net, Tensor], Tensor]) -> Callable[[], Tensor]:
    def cost() -> Tensor:
        h = net()
        return torch.stack((h[:, 1], 3 * way(net, h[:, 0]).detach(), h[:, 2] - 1), 1)

    return cost


def expected(net: nn.Module, closure: Callable[[], Tensor]) -> Tensor:
    return exact.gradient(net, closure, vectorize=False)["logits"]


def mean(estimator: ScoreFunction | DisARM, closure: Callable[[], Tensor]) -> Tensor:
    estimator.vectorize = False
    return exact.moments(estimator, closure, vectorize=False, variance=False).mean["logits"]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", WAYS)
def test_no_way_loses_credit(name: str) -> None:
    net = Net()
    closure = terms(net, WAYS[name])
    actual, right = mean(ScoreFunction(net), closure), expected(net, closure)
    assert right[0, 0].abs() > 1e-3, "the unit must matter"
    torch.testing.assert_close(actual, right, rtol=1e-9, atol=1e-10)


LOCAL = ["arithmetic", "add_", "item assigned", "out=", "copy to a view", "where", "complex", "RNN", "kept state", "custom op"]


@pytest.mark.parametrize("name", LOCAL)
def test_what_is_followed_stays_local(name: str) -> None:
    """So that the cases above are not right for the reason that everything is credited with everything."""
    net = Net()
    report = ScoreFunction(net, vectorize=False).credit_report(terms(net, WAYS[name]))
    assert report["node"].influence.int().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


# --- this call's connections, and no other's ------------------------------------------------------------------------------
def windows(net: Net) -> list[Callable[[], Tensor]]:
    """Closures of one shape that connect units and terms in different ways."""
    weights = torch.tensor([[1.0, 2.0]], dtype=DOUBLE)
    return [
        lambda: net()[:, :2] * weights,
        lambda: net()[:, 1:] * weights,
        lambda: net()[:, [2, 0]] * weights,
        lambda: net().index_select(1, torch.tensor([0, 2])) * weights,
        lambda: net()[:, torch.tensor([2, 1])] * weights,
        lambda: net()[:, :2].flip(1) * weights,
        lambda: (net()[:, :1] - net()[:, 1:]) * weights,
        lambda: torch.where(net()[:, :1] > 0, net()[:, 1:], -1.0) * weights,
    ]


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("build", [ScoreFunction, DisARM, lambda net: ScoreFunction(net, samples=2)])
def test_closures_that_alternate(build: Callable[[nn.Module], ScoreFunction | DisARM], vectorize: bool) -> None:
    """Each is seen by the estimator after all the others; also one closure that is another in every call."""
    net = Net()
    estimator, closures, turn = build(net), windows(net), 0
    for closure in (*closures, *closures):
        estimator.vectorize = vectorize
        estimator(closure)

    def changing() -> Tensor:
        return closures[turn]()

    for turn in (3, 0, 5, 1):  # noqa: B007
        estimator.vectorize = vectorize
        estimator(changing)
        right = exact.gradient(net, changing, vectorize=False)["logits"]
        actual = exact.moments(estimator, changing, vectorize=vectorize, variance=False).mean["logits"]
        torch.testing.assert_close(actual, right, rtol=1e-9, atol=1e-10)


def test_connections_that_depend_on_what_was_sampled() -> None:
    net = Net()

    def branch() -> Tensor:
        h = net()
        return torch.stack((h[:, 1], h[:, 2] if h[0, 0] > 0.5 else h[:, 1]), 1) * 2.0

    def chosen() -> Tensor:
        h = net()
        return torch.stack((h[:, 1], h[:, 1 + int(h[0, 0])]), 1)

    def of_memory() -> Tensor:
        """Nothing but the contents of a tensor from before the run tells which unit it is."""
        h = net()
        return torch.stack((h[:, 1], h.gather(1, net.place.long())[:, 0]), 1)

    for place in (0, 2):
        net.place = torch.full((1, 1), float(place), dtype=DOUBLE)
        for closure in (branch, chosen, of_memory):
            torch.testing.assert_close(mean(ScoreFunction(net), closure), expected(net, closure), rtol=1e-9, atol=1e-10)


def test_connections_that_a_tensor_of_whole_numbers_tells() -> None:
    """Within one function, where no argument shows it: what was followed in one call says nothing of the next."""
    net = Net()
    estimator = ScoreFunction(net)
    net.place = torch.tensor(0)
    for closure in (
        lambda: net().narrow(1, net.place, 2) * 2.0,
        lambda: net().index_select(1, net.place + torch.arange(2)) * 2.0,
    ):
        for place in (0, 1, 0):
            net.place = torch.tensor(place)
            torch.testing.assert_close(mean(estimator, closure), expected(net, closure), rtol=1e-9, atol=1e-10)


def test_a_static_closure_is_followed_once_and_runs_no_more() -> None:
    net, runs = Net(), 0

    def closure() -> Tensor:
        nonlocal runs
        runs += 1
        return net() * 2.0

    estimator = ScoreFunction(net)
    estimator.locality.static, estimator.examples = True, "separate"
    for expected_runs in (3, 4, 5):  # the first one is followed: once to see what it reads, once to follow that
        estimator(closure)
        assert runs == expected_runs


# --- sums that the closure has made itself --------------------------------------------------------------------------------
SUMS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda t: t.sum(1),
    "mean": lambda t: t.mean(-1),
    "the other dimension": lambda t: t.T.contiguous().sum(0),
    "the first of a square": lambda t: (t @ torch.ones(3, 1, dtype=DOUBLE)).T.expand(1, 1).sum(0),
    "times, in place": lambda t: t.sum(1).mul_(3),
    "times, by .data": lambda t: done(lambda c: c.data.mul_(3), t.sum(1)),
    "times, by numpy": lambda t: done(lambda c: np.multiply(c.detach().numpy(), 3, out=c.detach().numpy()), t.sum(1)),
    "a view changed": lambda t: done(lambda c: c[:1].add_(t[:, 0].square() * t[:, 1]), t.sum(1)),
    "what was summed changed": lambda t: summed_and_changed(t.detach().clone()),
    "squared": lambda t: t.sum(1).square(),
    "out=": lambda t: torch.sum(t.detach(), 1, out=new(1)),
    "dtype": lambda t: t.sum(1, dtype=DOUBLE),
    "keepdim": lambda t: t.sum(1, keepdim=True),
}


def summed_and_changed(t: Tensor) -> Tensor:
    cost = t.sum(1)
    t.mul_(5)
    return cost


@pytest.mark.parametrize("name", SUMS)
def test_split_sums_takes_a_sum_over_terms_and_nothing_else(name: str) -> None:
    net = Net()

    def closure() -> Tensor:
        return SUMS[name](net() * torch.tensor([1.0, -2.0, 3.0], dtype=DOUBLE) + 0.5)

    right, estimator = expected(net, closure), ScoreFunction(net, split_sums=True)
    torch.testing.assert_close(mean(estimator, closure), right, rtol=1e-9, atol=1e-10)
    if "by" not in name and name != "out=":  # nor in a vmap, where values cannot be compared
        actual = exact.moments(estimator, closure, variance=False).mean["logits"]
        torch.testing.assert_close(actual, right, rtol=1e-9, atol=1e-10)


def test_split_sums_of_a_square_goes_by_the_dimension() -> None:
    net = Net()
    net.logits = nn.Parameter(torch.tensor([[0.4, -0.7], [0.2, 1.0]], dtype=DOUBLE))
    steps = torch.tensor([1.0, -2.0], dtype=DOUBLE)
    for closure in (lambda: (net() * steps + 0.5).T.contiguous().sum(0), lambda: (net() * steps + 0.5).sum(-1)):
        estimator = ScoreFunction(net, split_sums=True)
        torch.testing.assert_close(mean(estimator, closure), expected(net, closure), rtol=1e-9, atol=1e-10)
