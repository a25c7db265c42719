"""Two estimators for one closure: right by enumeration, or refused when built or called, with the remedy.

Every ordered pair of the exported estimators' configurations (a sample of them without --long) under PerNode, one for each
layer of a net with two units; every pair with one in the closure of the other.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn

import dither
from dither import estimators, testing
from dither.estimators import _per_node

F64 = torch.float64
CLASSES = {
    c.__name__: c
    for c in [*vars(estimators).values(), dither.Auto]
    if isinstance(c, type) and issubclass(c, dither.Estimator) and hasattr(c, "unbiased")
}
ROWS: dict[str, Callable[[nn.Module], dither.Estimator]] = {
    name: build for c in CLASSES.values() for name, build in (c.configurations() or {c.__name__: c}).items()
}
two = {"straight-through": dither.StraightThrough, "scores": dither.ScoreFunction}
ROWS["Auto"] = partial(dither.Auto, candidates=two, by="evaluations", draws=2)
SAMPLE = list({name.partition("-")[0]: name for name in reversed(ROWS)}.values())


class Net(nn.Module):
    """Two layers of one unit each, 2 bits, or 2 categories twice; or one layer."""

    def __init__(self, node: type[dither.Node], layers: int = 2) -> None:
        super().__init__()
        width = 2 if node is dither.Categorical else 1
        torch.manual_seed(0)
        self.linears = nn.ModuleList([nn.Linear(2, width), nn.Linear(width, width), nn.Linear(width, 1)]).to(F64)
        self.nodes = nn.ModuleList([node() for _ in range(layers)])
        self.x = torch.tensor([[0.4, -0.7]], dtype=F64)

    def cost(self) -> Tensor:
        h = self.x
        for linear, node in zip(self.linears, self.nodes, strict=False):
            h = node(linear(h))
        return (torch.sin(3 * self.linears[-1](h)) + h.sum(1, keepdim=True) * 0.7).squeeze(1)


NETS = {"binary": partial(Net, dither.Bernoulli), "categorical": partial(Net, dither.Categorical)}


def refusal(error: Exception) -> bool:
    """Whether it says what to do instead."""
    return any(remedy in str(error) for remedy in ("by itself", "dither.PerNode", "samples=", "use ", "no node is called"))


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("first", [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.long) for name in ROWS])
def test_every_pair_under_per_node(first: str, kind: str, request: pytest.FixtureRequest) -> None:
    net, built = NETS[kind](), 0
    for second in ROWS if request.config.getoption("--long") else SAMPLE:
        try:
            both = dither.PerNode(net, {"nodes.0": ROWS[first], "nodes.1": ROWS[second]})
        except (TypeError, ValueError) as error:
            assert refusal(error), (second, error)
            continue
        built += 1
        check(both, net)
    assert built or first not in composable(kind), f"{first} composes with nothing, though it composes"


@cache
def composable(kind: str) -> list[str]:
    """The rows that PerNode takes for all nodes."""
    net, taken = NETS[kind](), []
    for name, build in ROWS.items():
        with suppress(TypeError, ValueError):
            dither.PerNode(net, {"*": build})
            taken.append(name)
    return taken


def check(both: dither.PerNode, net: Net) -> None:
    """Each layer's gradient is right if its own estimator's is, whatever the other is; and all are if it is unbiased."""
    parts = [both.estimators[f"nodes.{layer}"] for layer in (0, 1)]
    assert both.unbiased == all(part.unbiased for part in parts)
    if both.unbiased:
        testing.assert_unbiased(both, net, net.cost)
    elif both.stochastic and any(part.unbiased for part in parts):
        errors = testing.bias(both, net.cost)
        for layer, part in enumerate(parts):
            own = max(float(error.abs().max()) for name, error in errors.items() if name.startswith(f"linears.{layer}."))
            assert not part.unbiased or own < 1e-6, (both, layer, own)


def test_the_message_names_those_that_compose() -> None:
    taken = {ROWS[name](NETS["binary"]()).__class__.__name__ for name in composable("binary")} - {"PerNode"}
    assert taken == set(_per_node.COMPOSABLE.split(", "))


REASONS = {
    "DisARM": "makes runs of its own",
    "VIMCO": "has another value",
    "Blend": "takes d cost / d output",
    "ForwardOnly": "keeps samples in a form of its own",
    "SPSA": "calls the closure itself",
    "Exact": "calls the closure itself",
    "Auto": "calls the closure itself",
}


@pytest.mark.parametrize("name", REASONS)
def test_a_refusal_says_why_and_what_to_do(name: str) -> None:
    build = partial(CLASSES[name], samples=2) if name == "VIMCO" else CLASSES[name]
    with pytest.raises(
        TypeError, match=rf"{name} for 'nodes\.1' {REASONS[name]}.*by itself, {name}\(net\).*composes: Straight"
    ):
        dither.PerNode(NETS["binary"](), {"nodes.1": build})


def test_other_refusals() -> None:
    net = NETS["binary"]()
    with pytest.raises(TypeError, match="puts its loss together"):
        dither.PerNode(net, {"*": partial(dither.ScoreFunction, any_order=True)})
    with pytest.raises(ValueError, match=r"partial\(StraightThrough, samples=2\)"):
        dither.PerNode(net, {"nodes.0": partial(dither.ScoreFunction, samples=2), "nodes.1": dither.StraightThrough})
    with pytest.raises(ValueError, match=r"earlier patterns \(\*\).*narrower pattern first"):
        dither.PerNode(net, {"*": dither.ScoreFunction, "nodes.1": dither.StraightThrough})
    with pytest.raises(ValueError, match=r"estimator for 'nodes\.0', .* was built on another model: build it on this one"):
        dither.PerNode(net, {"nodes.0": lambda net: dither.ScoreFunction(net.nodes)})


class Lacking(dither.Bernoulli):
    """A node without a relaxation."""

    relaxation = dither.Node.relaxation


def test_each_has_its_own_nodes_alone() -> None:
    """What an estimator requires of nodes, and what it builds for them, is of those that it is given."""
    net = NETS["binary"]()
    net.nodes[1] = Lacking()
    with pytest.raises(TypeError, match="relaxation"):
        dither.GumbelSoftmax(net)
    both = dither.PerNode(net, {"nodes.0": dither.GumbelSoftmax, "nodes.1": dither.NVIL})
    both(net.cost).backward()
    assert [name for name, _ in both.named_parameters()] == [
        f"estimators.nodes_1.baseline.module.nodes_1.linear.{part}" for part in ("weight", "bias")
    ]
    state = both.state_dict()
    assert "estimators.nodes_1.baseline.mean.nodes.1.numerator" in state and not any("nodes.0" in key for key in state)


# --- one in the closure of another --------------------------------------------------------------------------------------
INNER = ["ScoreFunction-optimal-2", "DisARM-2", "Exact", "SPSA", "Auto"]


def built(name: str) -> tuple[dither.Estimator, Net]:
    one = [partial(Net, dither.Categorical, 1)] if name == "UnorderedSet" else []
    for make in (*one, *NETS.values()):
        net = make()
        with suppress(TypeError):
            return ROWS[name](net), net
    pytest.skip("takes chains only")


@pytest.mark.parametrize("outer", [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.long) for name in ROWS])
def test_in_the_closure_of_another(outer: str, request: pytest.FixtureRequest) -> None:
    for inner in ROWS if request.config.getoption("--long") else INNER:
        nested(outer, inner)


def nested(outer: str, inner: str) -> None:
    estimator, net = built(outer)
    other, other_net = built(inner)

    def run(closure: Callable[[], Tensor]) -> list[Tensor]:
        torch.manual_seed(2)
        parameters = list(net.parameters())
        with estimator.frozen():
            loss = estimator(closure)
        return list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))

    def a_part_of_the_cost() -> Tensor:
        return net.cost() + other(other_net.cost)

    def beside_it() -> Tensor:
        with torch.no_grad():
            other(other_net.cost)
        return net.cost()

    alone = run(net.cost)
    if isinstance(estimator, dither.SPSA | dither.FiniteDifference):
        assert all(g.isfinite().all() for g in run(a_part_of_the_cost))  # of the value alone, which is what it takes
    else:
        with pytest.raises(RuntimeError, match=r"part of the closure's cost.*outside|functorch transforms|learns from calls"):
            run(a_part_of_the_cost)
    assert all(map(torch.equal, run(beside_it), alone)), (outer, inner)
    with pytest.raises(RuntimeError, match=r"samples in the closure of \w+, which does not cover it|dither.exact"):
        run(lambda: net.cost() + other(lambda: other_net.cost() + net.cost()).detach())
    with suppress(TypeError):  # of the other kind of node
        shared = ROWS[inner](net)
        with pytest.raises(RuntimeError, match="both cover node"):
            run(lambda: net.cost() + shared(net.cost).detach())
    assert all(map(torch.equal, run(net.cost), alone))
