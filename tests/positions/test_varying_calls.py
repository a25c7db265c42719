"""Closures in which Python looks at samples, so that each run calls other nodes: every unbiased estimator, by enumeration.

A net that stops when a unit says so, one that goes on by another node, a batch that stops when all have stopped, a cost whose
formula a sample chooses. Runs are made one after the other, `vectorize=False`: a vmap cannot look at values. `DITHER_LONG=1`
takes every configuration on every net, with up to 3000 outcomes each; else it is a sample of them, of few outcomes.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import dither
from dither import estimators, exact, testing
from dither.estimators.control_variates import relaxation

F64 = torch.float64
LONG = bool(os.environ.get("DITHER_LONG"))
MOST = 3000 if LONG else 40  # outcomes of one case


class Net(nn.Module):
    """Steps of one decision each, by logits that depend on the decision before."""

    def __init__(self, node: type[nn.Module] = dither.Bernoulli, batch: int = 1) -> None:
        super().__init__()
        self.width = 1 if node is dither.Bernoulli else 2
        self.a = nn.Parameter(torch.linspace(-0.4, 0.6, 2 * self.width, dtype=F64).view(2, self.width))
        self.b = nn.Parameter(torch.tensor([0.9, -0.7], dtype=F64))
        self.node, self.other = node(), node()
        self.sign = torch.tensor([1.0, -0.8], dtype=F64)[:batch].unsqueeze(1)

    def decide(self, step: int, before: Tensor, node: str = "node") -> Tensor:
        """A number for each example."""
        logits = self.sign * (self.a[step] + self.b[step] * before.unsqueeze(1))
        h = getattr(self, node)(logits)
        return h.squeeze(1) if self.width == 1 else h @ torch.tensor([0.0, 1.5], dtype=F64)

    def cost(self, step: int, h: Tensor) -> Tensor:
        return (1.3 * h + self.b[step] + step).sin() * 2 + self.a[step].square().sum()


def stops(net: Net) -> Tensor:
    cost, h = torch.zeros(1, dtype=F64), torch.zeros(1, dtype=F64)
    for step in range(2):
        h = net.decide(step, h)
        cost = cost + net.cost(step, h)
        if h.item() > 0:
            break
    return cost


def stops_together(net: Net) -> Tensor:
    cost, h, on = torch.zeros(2, dtype=F64), torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)
    for step in range(2):
        h = net.decide(step, h.detach())
        cost, on = cost + on * net.cost(step, h), on * (h == 0)
        if not on.any():
            break
    return cost


def goes_on(net: Net) -> Tensor:
    """By one node or the other, of which the first stands at the end of its branch."""
    h = net.decide(0, torch.zeros(1, dtype=F64))
    if bool(h > 0):
        return net.cost(1, h + net.decide(1, h, "other")) * 1.5
    return net.cost(0, net.decide(1, h)) + 2


def chooses_cost(net: Net) -> Tensor:
    h = net.decide(0, torch.zeros(1, dtype=F64))
    return net.cost(0, h).square() + 3 if h.numpy(force=True)[0] > 0 else net.cost(1, -h)


def terms(net: Net) -> Tensor:
    """One for each step that was made."""
    costs, h = [], torch.zeros(1, dtype=F64)
    for step in range(2):
        h = net.decide(step, h)
        costs.append(net.cost(step, h))
        if h.item() > 0:
            break
    return torch.stack(costs, 1)


NETS: dict[str, tuple[Callable[[], Net], Callable[[Net], Tensor]]] = {
    "stops": (Net, stops),
    "stops, categorical": (partial(Net, dither.Categorical), stops),
    "stops together": (partial(Net, batch=2), stops_together),
    "goes on": (Net, goes_on),
    "goes on, categorical": (partial(Net, dither.Categorical), goes_on),
    "chooses the cost": (Net, chooses_cost),
    "terms": (Net, terms),
}


def _builds(name: str) -> Iterator[tuple[str, Callable[[nn.Module], dither.Estimator]]]:
    if name == "PerNode":  # its configurations name the nodes of another net
        loo = partial(dither.ScoreFunction, baseline="leave-one-out", samples=2)
        mean = partial(dither.ScoreFunction, baseline="mean", samples=2)
        yield name, lambda net: dither.PerNode(net, {"other": loo, "*": mean})
        return
    yield from getattr(estimators, name).configurations().items()


def _unbiased(name: str) -> bool:
    kind = getattr(estimators, name)
    return isinstance(kind, type) and issubclass(kind, dither.Estimator) and kind.unbiased is not False


NAMES = [name for name in vars(estimators) if name[0].isupper() and name != "Estimator" and _unbiased(name)]


def _cases(name: str) -> Iterator[tuple[dither.Estimator, Callable[[], Tensor]]]:
    """Every fifth of (net, configuration), and all where an estimator is for few of them."""
    cases = []
    for number, build in enumerate(dict(_builds(name)).values()):
        for place, (make, closure) in enumerate(NETS.values()):
            net = make()
            torch.manual_seed(0)
            try:
                estimator = build(net)
            except TypeError:  # not for nodes of this kind
                continue
            estimator.vectorize = False
            if estimator.unbiased:
                cases.append(((number + 2 * place) % 5, estimator, partial(closure, net)))
    few = LONG or len(cases) < 8
    return ((estimator, closure) for part, estimator, closure in cases if few or part == 0)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("UnorderedSet", "Auto")])
def test_unbiased_where_python_looks_at_samples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "POINTS", 1)  # nothing is relaxed here, and no quadrature needed
    right = 0
    for estimator, closure in _cases(name):
        net = estimator.model
        for _ in range(3):  # what baselines learn, and the layout of the call before, is of runs of any length
            estimator(closure)
        try:
            moments = exact.moments(estimator, closure, max_outcomes=MOST, vectorize=False, frozen=False, variance=False)
        except exact.CannotEnumerate as error:
            assert "exceed" in str(error) or "by quadrature: binary units" in str(error)
            continue
        cost = exact.expected_cost(net, testing._unbiased.objective(estimator, closure), vectorize=False)
        gradient = exact.parameter_gradients(cost.sum() / len(cost), exact.trainable(net).values())
        torch.testing.assert_close(float(moments.value), cost.sum().item() / len(cost), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(tuple(moments.mean.values()), gradient, rtol=0, atol=1e-12)
        right += 1
    assert right, "no case is small enough"


def test_a_set_of_samples_is_of_one_call() -> None:
    net = Net(dither.Categorical)
    with pytest.raises(ValueError, match=r"a second call.*use CARMS or SumAndSample"):
        for _ in range(20):
            dither.UnorderedSet(net, vectorize=False)(partial(stops, net))


def test_noise_on_logits_is_biased_by_its_square_alone() -> None:
    net = Net()
    cost = partial(chooses_cost, net)
    expected = exact.gradient(net, cost, vectorize=False)
    errors = []
    for scale in (0.2, 0.1):
        mean = exact.moments(
            dither.NodePerturbation(net, scale=scale, vectorize=False), cost, vectorize=False, variance=False
        ).mean
        errors.append(exact.concatenate(mean) - exact.concatenate(expected))
    torch.testing.assert_close(*(e / 4**i for i, e in enumerate((errors[1], errors[0]))), rtol=0.05, atol=1e-6)


# --- a closure that changes by itself -----------------------------------------------------------------------------------
GROUPED = [name for name in NAMES if getattr(estimators, name).runs_depend_on_layout]


def _first(name: str, net: nn.Module) -> dither.Estimator | None:
    try:
        return next(iter(getattr(estimators, name).configurations().values()))(net)
    except TypeError:
        return None


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("Exact", "UnorderedSet", "Auto", "PerNode")])
def test_what_a_closure_draws_itself_is_the_same_in_all_runs(name: str) -> None:
    """So it is in a vmap, and runs that are compared differ by their samples alone."""
    for node in (dither.Bernoulli, dither.Categorical):
        net, gradients, ends = Net(node), [], []
        for vectorize in (True, False):
            if (estimator := _first(name, net)) is None:
                break
            estimator.vectorize = vectorize

            def closure(net: Net = net) -> Tensor:
                before = torch.nn.functional.dropout(torch.ones(1, dtype=F64))
                h = net.decide(0, before)
                return net.cost(0, h) * torch.rand(1, dtype=F64) + net.cost(1, net.decide(1, h, "other"))

            torch.manual_seed(2)
            with torch.no_grad():
                estimator(closure)  # a vmap learns how many runs to make
            torch.manual_seed(3)
            for _ in range(3):
                gradients.append(torch.autograd.grad(estimator(closure), (net.a, net.b)))
            ends.append(torch.rand(1, dtype=F64))
        for one, other in zip(gradients[:3], gradients[3:], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
        assert not ends or torch.equal(*ends)


@pytest.mark.parametrize("changes", ["logits", "calls"])
@pytest.mark.parametrize("name", GROUPED)
def test_a_closure_that_counts_its_runs_is_refused(name: str, changes: str) -> None:
    net, runs = Net(dither.Categorical if name == "CARMS" else dither.Bernoulli), iter(range(100))

    def closure() -> Tensor:
        count = next(runs)
        h = net.decide(0, torch.full((1,), float(count), dtype=F64) if changes == "logits" else torch.ones(1, dtype=F64))
        return net.cost(0, h + (net.decide(1, h) if changes == "calls" and count % 2 else 0))

    estimator = _first(name, net)
    assert estimator is not None
    estimator.vectorize = False
    with pytest.raises(ValueError, match=r"node 'node' other logits, or called other nodes.*a counter.*leave-one-out"):
        estimator(closure)
    next(runs)
    dither.ScoreFunction(net, baseline="leave-one-out", samples=2, vectorize=False)(closure).backward()


def test_terms_of_runs_by_other_nodes_are_credited_as_a_whole() -> None:
    """Connections are traced run by run, in the order of its calls, which is not that of other runs."""
    gradients = []
    for terms in (True, False):
        net, runs = Net(), iter(range(1000))
        estimator = dither.ScoreFunction(net, baseline="leave-one-out", samples=2, vectorize=False)
        estimator.examples = "separate"

        def closure(net: Net = net, runs: Iterator[int] = runs, terms: bool = terms) -> Tensor:
            h = net.decide(0, torch.ones(1, dtype=F64))
            second = net.cost(1, net.decide(1, torch.ones(1, dtype=F64))) if next(runs) % 2 else torch.zeros(1, dtype=F64)
            third = net.cost(0, net.decide(1, torch.ones(1, dtype=F64), "other"))
            cost = torch.stack([net.cost(0, h), second, third], 1)
            return cost if terms else cost.sum(1)

        torch.manual_seed(0)
        for _ in range(8):
            gradients.append(torch.autograd.grad(estimator(closure), (net.a, net.b)))
    for one, other in zip(gradients[:8], gradients[8:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


# --- bits of several runs -----------------------------------------------------------------------------------------------
class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.layers = nn.Linear(3, 4), nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.node, self.last = dither.Bernoulli(), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.node(self.first(x))
        return self.last(self.node(self.layers[int(h[0, 0])](h))).squeeze(1).square()


@pytest.mark.parametrize("keep", ["bits", "logits"])
def test_packed_runs_by_other_layers_are_ordinary_ones(keep: str) -> None:
    torch.manual_seed(0)
    net, x = Branches().double(), torch.randn(1, 3, dtype=F64)
    packed = dither.ForwardOnly(net, baseline="leave-one-out", samples=3, keep=keep, vectorize=False)  # type: ignore[arg-type]
    ordinary = dither.ScoreFunction(net, baseline="leave-one-out", samples=3, vectorize=False)
    for seed in range(6):
        gradients = []
        for estimator in (packed, ordinary):
            torch.manual_seed(seed)
            gradients.append(torch.autograd.grad(estimator(lambda: net(x)), tuple(net.parameters()), allow_unused=True))
        for one, other in zip(*gradients, strict=True):
            one, other = (torch.zeros(1, dtype=F64) if g is None else g for g in (one, other))
            torch.testing.assert_close(one.expand_as(other), other.expand_as(one))
    assert packed.run_type is not type(packed).run_type  # from the first call on whose runs differed
