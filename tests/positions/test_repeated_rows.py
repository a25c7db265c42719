"""`repeated=True`: one plain run of a batch that holds each example for each sample gives what a vmap over the closure
gives, to the last bit of noise."""

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dither
from dither import exact

K = 3
BUILDS: dict[str, Any] = {
    "leave-one-out": partial(dither.ScoreFunction, baseline="leave-one-out", samples=K),
    "mean": partial(dither.ScoreFunction, baseline="mean", samples=K),
    "optimal": partial(dither.ScoreFunction, baseline="optimal", samples=K),
    "VIMCO": partial(dither.VIMCO, samples=K),
    "DoubleCV": partial(dither.DoubleCV, samples=K),
    "RODEO": partial(dither.RODEO, samples=K),
    "StraightThrough": partial(dither.StraightThrough, samples=K),
    "ReinMax": partial(dither.ReinMax, samples=K),
    "GumbelSoftmax": partial(dither.GumbelSoftmax, samples=K),
}
NODES: dict[str, tuple[Any, int, int]] = {  # a maker, logits and outputs of a node
    "Bernoulli": (dither.Bernoulli, 6, 6),
    "Categorical": (lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), dither.Categorical(), nn.Flatten()), 6, 6),
    "NoisyReLU": (lambda: nn.Sequential(dither.NoisyReLU(), nn.Linear(6, 6).double(), dither.Bernoulli()), 6, 6),
}
X = torch.linspace(-2, 2, 20, dtype=torch.float64).sin().view(5, 4)


class Net(nn.Module):
    """Two nodes with a GRU and a routing behind them, which no vmap takes."""

    def __init__(self, node: str, plain: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        make, logits, outputs = NODES[node]
        self.first, self.node = nn.Linear(4, logits).double(), make()
        self.second, self.last = nn.Linear(outputs, 4).double(), dither.Bernoulli()
        self.gru = None if plain else nn.GRU(2, 3, batch_first=True).double()
        self.experts = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)]).double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.last(self.second(self.node(self.first(x))))
        if self.gru is None:
            return self.experts[0](h).square().sum(1)
        out, choice = torch.zeros(len(h), 3, dtype=h.dtype), (h[:, 0] > 0).long()
        for number, expert in enumerate(self.experts):
            rows = (choice == number).nonzero().flatten()
            out = out.index_add(0, rows, expert(h[rows]))
        return (self.gru(h.view(-1, 2, 2))[0].sum(1) + out).square().sum(1)


def gradients(build: Any, net: Net, x: Tensor, calls: int = 2, **options: Any) -> list[Tensor]:
    estimator = build(net, **options)
    if options.get("repeated"):
        x = dither.repeat_rows(x, K)
    results = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*one after the other")
        for seed in range(calls):
            torch.manual_seed(seed)
            loss = estimator(lambda: net(x))
            results += [loss.detach(), *torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)]
    return [torch.zeros(()) if r is None else r for r in results]


def assert_close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "node"),
    [
        pytest.param(name, node, marks=[] if node == "Bernoulli" or name in ("leave-one-out", "DoubleCV") else pytest.mark.long)
        for name in BUILDS
        for node in NODES
        if name != "RODEO" or node == "Bernoulli"
    ],
)
def test_it_is_a_vmap_and_a_loop(name: str, node: str) -> None:
    for plain in (True, False):
        repeated = gradients(BUILDS[name], Net(node, plain), X, repeated=True)
        for vectorize in ("auto", False):
            assert_close(repeated, gradients(BUILDS[name], Net(node, plain), X, vectorize=vectorize))


@pytest.mark.parametrize("name", ["leave-one-out", "DoubleCV"])
def test_the_places_of_programs(name: str) -> None:
    """Examples with numbers of their own, one example, none, a compiled net, a checkpoint, no gradient, fake tensors."""
    expected = gradients(BUILDS[name], Net("Bernoulli", True), X)
    with dither.noise.examples(torch.arange(5) + 70):
        other = gradients(BUILDS[name], Net("Bernoulli", True), X, repeated=True)
        assert_close(other, gradients(BUILDS[name], Net("Bernoulli", True), X))
    assert not torch.allclose(other[0], expected[0])
    for batch in (0, 1):
        assert_close(
            gradients(BUILDS[name], Net("Bernoulli"), X[:batch], repeated=True),
            gradients(BUILDS[name], Net("Bernoulli"), X[:batch]),
        )
    net = Net("Bernoulli", True)
    net.forward = torch.compile(net.forward, backend="eager")  # type: ignore[method-assign]
    assert_close(gradients(BUILDS[name], net, X, repeated=True), expected)
    net = Net("Bernoulli", True)
    whole = net.forward
    net.forward = lambda x: torch.utils.checkpoint.checkpoint(whole, x, use_reentrant=False)  # type: ignore[method-assign]
    if name != "DoubleCV":  # which differentiates in the call
        assert_close(gradients(BUILDS[name], net, X, repeated=True), expected)


def test_the_exact_gradient_is_that_of_an_average_of_its_outcomes() -> None:
    net, x = nn.Sequential(nn.Linear(2, 2), dither.Bernoulli(), nn.Linear(2, 1)).double(), X[:1, :2]
    for build in (partial(dither.ScoreFunction, baseline="leave-one-out"), dither.DoubleCV):
        estimator = build(net, samples=2, repeated=True)
        moments = exact.moments(estimator, lambda: net(dither.repeat_rows(x, 2)).square().squeeze(1), vectorize=False)
        for name, gradient in exact.gradient(net, lambda: net(x).square().squeeze(1)).items():
            torch.testing.assert_close(moments.mean[name], gradient, rtol=1e-10, atol=1e-10)


def test_aux_is_that_of_the_one_run() -> None:
    net = Net("Bernoulli", True)
    estimator = dither.ScoreFunction(net, samples=K, repeated=True)
    loss, rows = estimator(lambda: (net(dither.repeat_rows(X, K)), torch.arange(15)), has_aux=True)
    assert torch.equal(rows, torch.arange(15)) and loss.shape == ()


# --- what is refused --------------------------------------------------------------------------------------------------------
def refused(closure: Any, net: nn.Module, match: str, build: Any = BUILDS["leave-one-out"], repeated: bool = True) -> None:
    estimator = build(net)
    estimator.repeated = repeated
    with pytest.raises((ValueError, RuntimeError), match=match):
        estimator(closure)


def test_rows_that_are_not_repeated_or_in_another_order() -> None:
    net = Net("Bernoulli", True)
    refused(lambda: net(X.repeat_interleave(K, 0)), net, "rows of an example have different logits .*repeat_rows")
    refused(lambda: net(X[:3]), net, "rows of an example have different logits")
    refused(lambda: net(X), net, "5 rows with repeated=True and samples=3.*repeat_rows")
    drops = nn.Sequential(nn.Dropout(0.5), net)
    estimator = BUILDS["leave-one-out"](drops, repeated=True)
    estimator(lambda: drops(dither.repeat_rows(X, K))).backward()  # whose rows differ by what torch has drawn


def test_rows_that_depend_on_each_other() -> None:
    net = nn.Sequential(nn.Linear(4, 6), dither.Bernoulli(), nn.BatchNorm1d(6), nn.Linear(6, 1)).double()
    x = dither.repeat_rows(X, K)
    refused(lambda: net(x).squeeze(1), net, "changes the costs of others .*repeated=True")
    with dither.noise.examples(torch.arange(5)):
        refused(lambda: net(x).squeeze(1), net, "changes the costs of others .*repeated=True")


@pytest.mark.parametrize("build", [dither.DisARM, dither.MuProp, dither.ForwardOnly, dither.REBAR, dither.NodePerturbation])
def test_estimators_whose_runs_are_not_its_samples(build: Any) -> None:
    net = Net("Bernoulli", True)
    refused(lambda: net(dither.repeat_rows(X, 4)), net, "runs of .*leave repeated out", partial(build, samples=4))


def test_parts_that_see_some_rows() -> None:
    net, index = Net("Bernoulli", True), torch.arange(9)

    def part() -> Tensor:
        with dither.rows(index):
            return net(dither.repeat_rows(X, K)[:9])

    refused(part, net, "inside dither.rows with repeated=True")


def test_terms_whose_credit_would_be_lost() -> None:
    net, x = Net("Bernoulli", True), dither.repeat_rows(X, K)
    refused(lambda: net.last(net.first(x)).float(), net, "6 cost terms per example.*cost.sum")
    with pytest.raises(TypeError, match="a scalar"):
        dither.repeat_rows(torch.tensor(1.0), 3)
    with pytest.raises(ValueError, match="samples is 0"):
        dither.repeat_rows(X, 0)
