"""Parts of a net that see some examples, or examples more than once: `dither.rows`, for every estimator."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import dither
from dither import exact, noise, testing
from every_configuration import ROWS

INDICES = {"subset": [1], "permuted": [1, 0], "repeats": [0, 0, 1], "empty": [], "one of them twice": [1, 1]}
REFUSE_REPEATS = ("LocalExpectation", "SumAndSample")
DTYPE = torch.float64


class Parts(nn.Module):
    """A node for every example, and one for rows of them, whose logits depend on the first; a nested part if `inner`.

    dense: the same net, with all rows of an example as units of one row and without `rows`, for the oracle."""

    def __init__(self, node: type[nn.Module], index: list[int], inner: list[int] | None = None, dense: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.width = 2 if node is dither.Categorical else 1
        self.first, self.second = node(), node()
        self.into, self.between, self.out = (
            nn.Linear(2, self.width),
            nn.Linear(self.width, self.width),
            nn.Linear(self.width, 1),
        )
        self.index, self.inner, self.dense = torch.tensor(index, dtype=torch.int64), inner, dense
        self.double()

    def part(self, logits: Tensor, index: Tensor) -> Tensor:
        if not self.dense:
            return self.second(logits)
        places = torch.stack([(index[:i] == e).sum() for i, e in enumerate(index)]) if len(index) else index
        units = logits.new_zeros(2, 3, self.width).index_put((index, places), logits)
        return self.second(units)[index, places]

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(self.into(x))
        index = self.index
        logits = self.between(h[index]) + 0.3 * torch.arange(len(index), dtype=DTYPE).unsqueeze(1)
        with nullcontext() if self.dense else dither.rows(index):
            if self.inner is None:
                rows = self.part(logits, index)
            else:
                inner = torch.tensor(self.inner, dtype=torch.int64)
                with nullcontext() if self.dense else dither.rows(inner):
                    rows, index = self.part(logits[inner], index[inner]), index[inner]
        weights = 1 + torch.arange(len(index), dtype=DTYPE)
        value = h.sum(1).mul(0.7).index_add(0, index, self.out(rows).squeeze(1) * weights)
        return torch.sin(2 * value) + value * x[:, 0]


X = torch.tensor([[0.3, -1.2], [0.8, 0.5]], dtype=DTYPE)


def node_for(name: str) -> type[nn.Module]:
    return dither.Categorical if name.startswith(("CARMS", "Unordered")) else dither.Bernoulli


def cases(name: str) -> list[str]:
    turn = list(ROWS).index(name)
    return ["repeats", list(INDICES)[turn % len(INDICES)]]


@pytest.mark.parametrize("inner", [None, [0], [1, 0, 0]])
@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_the_oracle_sums_over_rows_as_over_units_of_their_examples(index: list[int], inner: list[int] | None) -> None:
    if inner is not None and len(index) < 2:
        pytest.skip("there are no such rows")
    if inner is not None and len(index) == 3:
        inner = [i + 1 for i in inner]
    rows, dense = (Parts(dither.Bernoulli, index, inner, dense) for dense in (False, True))
    expected = exact.gradient(dense, lambda: dense(X))
    for vectorize in (True, False):
        gradients = exact.gradient(rows, lambda: rows(X), vectorize=vectorize)
        for name, gradient in expected.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-12, atol=1e-14)
    testing.assert_unbiased(dither.ScoreFunction, rows, lambda: rows(X))


@pytest.mark.parametrize("name", ROWS)
def test_unbiased_estimators_are_unbiased_with_rows(name: str, pytestconfig: pytest.Config) -> None:
    done = 0
    for case in INDICES if pytestconfig.getoption("--long") else cases(name):
        net = Parts(node_for(name), INDICES[case])
        try:
            estimator = ROWS[name](net)
        except (TypeError, ValueError):  # built for other nodes, by names that this net does not have
            pytest.skip("takes no such net")
        if not estimator.unbiased:
            loss = estimator(lambda net=net: net(X))
            loss.backward()
            assert torch.isfinite(loss)
            done += 1
            continue
        repeated = len(set(INDICES[case])) < len(INDICES[case])
        if repeated and name.startswith(REFUSE_REPEATS):
            with pytest.raises(ValueError, match="several rows of one example"):
                estimator(lambda net=net: net(X))
            continue
        try:
            testing.assert_unbiased(estimator, net, lambda net=net: net(X), max_outcomes=1 << 12, tolerance=1e-10)
            done += 1
        except exact.CannotEnumerate:
            continue
    if not done:
        pytest.skip("too many outcomes, or refused")


def test_rows_that_samples_choose() -> None:
    """A gate sends an example to a node, or past it."""

    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(2)
            self.gate, self.node = dither.Bernoulli(), dither.Bernoulli()
            self.a, self.b = nn.Linear(2, 1).double(), nn.Linear(2, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            g = self.gate(self.a(x))
            index = (g[:, 0] > 0).nonzero().flatten()
            with dither.rows(index):
                h = self.node(self.b(x[index]))
            return torch.sin(g[:, 0] + torch.zeros(2, dtype=DTYPE).index_add(0, index, 2 * h[:, 0]) + x[:, 1])

    net = Routed()
    expected = exact.gradient(net, lambda: net(X), vectorize=False)
    p, q = (torch.sigmoid(layer(X)).squeeze(1) for layer in (net.a, net.b))
    cost = (1 - p) * torch.sin(X[:, 1]) + p * (q * torch.sin(3 + X[:, 1]) + (1 - q) * torch.sin(1 + X[:, 1]))
    by_hand = torch.autograd.grad(cost.mean(), list(net.parameters()))
    for gradient, hand in zip(expected.values(), by_hand, strict=True):
        torch.testing.assert_close(gradient, hand, rtol=1e-12, atol=1e-14)
    for build in (
        dither.ScoreFunction,
        partial(dither.ScoreFunction, baseline="leave-one-out", samples=2),
        partial(dither.ScoreFunction, baseline="mean"),
        partial(dither.ScoreFunction, baseline="optimal"),
    ):
        testing.assert_unbiased(partial(build, vectorize=False), net, lambda: net(X))


class Experts(nn.Module):
    """Top-1 mixture of 8 experts with hard units, on flattened tokens; dense: every expert on every token, masked."""

    def __init__(self, dense: bool = False) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.gate, self.router = dither.Categorical(), nn.Linear(5, 8)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(5, 6), dither.Bernoulli(), nn.Linear(6, 3)) for _ in range(8))
        self.dense = dense
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        tokens, own = x.flatten(0, 1), torch.arange(batch).repeat_interleave(time)
        with dither.rows(own):
            choice = self.gate(self.router(tokens).unsqueeze(1)).squeeze(1)
            out = tokens.new_zeros(len(tokens), 3)
            for number, expert in enumerate(self.experts):
                if self.dense:
                    out = out + expert(tokens) * choice[:, number : number + 1]
                    continue
                index = choice[:, number].nonzero().flatten()
                with dither.rows(index):
                    out = out.index_add(0, index, expert(tokens[index]))
        return out.unflatten(0, (batch, time)).square().sum((1, 2))


@pytest.mark.parametrize("samples", [1, 3])
def test_a_mixture_of_experts_on_tokens_is_the_dense_masked_net(samples: int) -> None:
    x, gradients = torch.randn(4, 7, 5, dtype=DTYPE, generator=torch.Generator().manual_seed(0)), []
    for dense in (True, False):
        net = Experts(dense)
        baseline = "leave-one-out" if samples > 1 else None
        estimator = dither.ScoreFunction(net, baseline=baseline, samples=samples, vectorize=False)
        torch.manual_seed(5)
        estimator(lambda net=net: net(x)).backward()
        gradients.append({name: p.grad for name, p in net.named_parameters() if "router" in name or name.endswith("2.weight")})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-12, atol=1e-14)


# --- noise --------------------------------------------------------------------------------------------------------------
def test_noise_follows_the_example_whatever_else_is_there() -> None:
    node, logits = dither.Bernoulli(), torch.randn(6, 40)

    def drawn(index: list[int], *inner: list[int]) -> Tensor:
        own = torch.tensor(index, dtype=torch.int64)
        torch.manual_seed(0)
        with dither.rows(own):
            if not inner:
                return node(logits[own])
            rows = torch.tensor(inner[0], dtype=torch.int64)
            with dither.rows(rows):
                return node(logits[own][rows])

    torch.manual_seed(0)
    whole = node(logits)
    assert torch.equal(drawn([0, 1, 2, 3, 4, 5]), whole)
    assert torch.equal(drawn([4, 1]), whole[[4, 1]])
    assert torch.equal(drawn([4, 1], [1]), whole[[1]])
    torch.manual_seed(0)
    with dither.rows(torch.tensor([False, True, False, False, True, False])):
        assert torch.equal(node(logits[[1, 4]]), whole[[1, 4]])
    thrice = drawn([2, 2, 5, 2])
    assert torch.equal(thrice[[0, 2]], whole[[2, 5]])
    assert len({tuple(row.tolist()) for row in thrice[[0, 1, 3]]}) == 3  # every row of an example has noise of its own
    assert torch.equal(drawn([5, 2, 2, 2])[1:], thrice[[0, 1, 3]])
    assert torch.equal(drawn([2, 2, 5, 2], [3, 1]), thrice[[3, 1]])
    torch.manual_seed(0)
    with noise.examples(torch.tensor([0, 7, 4, 9, 1, 3])), dither.rows(torch.tensor([4, 2])):
        assert torch.equal(node(logits[[1, 4]]), whole[[1, 4]])


def test_rows_of_many_examples_share_no_noise() -> None:
    index = torch.arange(200).repeat_interleave(300)
    with dither.rows(index):
        ids = noise.example_ids(len(index), index.device)
        with dither.rows(torch.arange(len(index)).repeat(3)):
            inner = noise.example_ids(3 * len(index), index.device)
    assert len(ids.unique()) == len(index)
    assert len(inner.unique()) == 3 * len(index)
    assert torch.equal(inner[: len(index)], ids)


def test_several_samples_of_a_routed_net_are_run_in_a_loop() -> None:
    x, net, gradients = torch.randn(4, 7, 5, dtype=DTYPE), Experts(), []
    for vectorize in ("auto", False):
        torch.manual_seed(0)
        estimator = dither.ScoreFunction(net, baseline="leave-one-out", samples=3, vectorize=vectorize)
        with pytest.warns(UserWarning, match="nonzero") if vectorize else nullcontext():
            loss = estimator(lambda: net(x))
        gradients.append(torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_a_checkpointed_part_draws_the_same_rows_again() -> None:
    net = Parts(dither.Bernoulli, INDICES["repeats"])
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        estimator = dither.ScoreFunction(net)
        run = partial(torch.utils.checkpoint.checkpoint, net, X, use_reentrant=False) if checkpointed else partial(net, X)
        gradients.append(torch.autograd.grad(estimator(run), list(net.parameters())))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


class Three(nn.Module):
    """A bit for each of three examples, whose costs are it times 1, 5 and 20."""

    def __init__(self, logits: tuple[float, ...] = (0.5, -0.5, 0.2)) -> None:
        super().__init__()
        self.logits, self.node = nn.Parameter(torch.tensor(logits, dtype=DTYPE)), dither.Bernoulli()
        self.weights = torch.tensor([1.0, 5.0, 20.0], dtype=DTYPE)

    def cost(self, indices: Iterable[Tensor]) -> Tensor:
        """Of the examples in each part of the batch."""
        out = torch.zeros(3, dtype=DTYPE)
        for index in indices:
            with dither.rows(index):
                own = index.clone()  # autograd's
                out = out.index_add(0, own, self.node(self.logits[own].unsqueeze(1))[:, 0])
        return out * self.weights


def test_an_index_that_is_changed_later_says_what_it_said() -> None:
    net, index = Three(), torch.zeros(1, dtype=torch.int64)

    def walk() -> Tensor:
        return net.cost(index.fill_(step) for step in range(3))

    p = torch.sigmoid(net.logits.detach())
    torch.testing.assert_close(exact.gradient(net, walk)["logits"], net.weights * p * (1 - p) / 3)
    testing.assert_unbiased(dither.ScoreFunction, net, walk)


def test_a_mask_must_be_of_all_that_it_chooses_from() -> None:
    net = Three()

    def masked(mask: list[bool], *outer: int) -> Tensor:
        with dither.rows(torch.tensor(outer)) if outer else nullcontext(), dither.rows(torch.tensor(mask)):
            h = net.node(net.logits[1].view(1, 1))
        return torch.cat([torch.zeros(1), h[0], torch.zeros(1)]) * net.weights

    for mask, outer, message in (
        ([True, False], (), "but the closure returned a cost for 3"),
        ([False, True, False], (1, 2), "a mask of 3, but there are 2 rows"),
    ):
        estimator = dither.ScoreFunction(net)
        estimator.examples = "separate"
        for run in (estimator, partial(exact.gradient, net, vectorize=False)):
            with pytest.raises(ValueError, match=message):
                run(lambda mask=mask, outer=outer: masked(mask, *outer))
    with pytest.raises(RuntimeError, match="is called within"), dither.rows(torch.tensor([0, 2, 2])):
        dither.ScoreFunction(net)(lambda: net.cost([torch.arange(3)]))


@pytest.mark.parametrize("logit", [-1.5, -0.5, 0.5, 1.5])
def test_coupled_examples_are_seen_whatever_their_logits(logit: float) -> None:
    net = Three((0.5, 0.2, logit))
    with pytest.warns(UserWarning, match="changes the costs of others"):
        dither.ScoreFunction(net)(lambda: net.node(net.logits.view(3, 1))[[0, 2, 2], 0])


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        ([0, 1], TypeError, "index is list"),
        (torch.tensor([0.0, 1.0]), ValueError, "dtype torch.float32"),
        (torch.zeros(2, 3, dtype=torch.int64), ValueError, r"shape \(2, 3\)"),
        (torch.tensor([-1]), ValueError, "index has -1"),
        (torch.tensor([0, 1, 1]), ValueError, "logits of 2 rows inside dither.rows"),
        (torch.tensor([0, 5]), ValueError, "row of example 5"),
    ],
)
def test_wrong_rows_are_errors(index: object, error: type[Exception], message: str) -> None:
    net = nn.Sequential(nn.Linear(2, 1), dither.Bernoulli())
    estimator = dither.ScoreFunction(net)

    def cost() -> Tensor:
        with dither.rows(index):  # type: ignore[arg-type]
            return net(torch.zeros(2, 2)).sum(1)

    with pytest.raises(error, match=message):
        estimator(cost)
