"""What an estimator or a node was built with: by keyword, or in the former order with a warning; and its repr shows it all."""

import copy
import inspect
import math
import pickle
import warnings
from functools import partial
from importlib import import_module

import pytest
import torch
from torch import nn

import dither
from dither import Bernoulli, Categorical, Estimator, estimators, nodes
from dither.auditing import AuditReport
from dither.settings import Configured
from every_configuration import CLASSES, ROWS

NODES = [c for c in vars(nodes).values() if isinstance(c, type) and issubclass(c, nodes.Node) and c is not nodes.Node]


def net(*kinds) -> nn.Module:
    return nn.ModuleDict({f"n{i}": kind() for i, kind in enumerate(kinds)}).double()


def configured():
    """name -> object: every configuration of every estimator, the nodes, and what is built on models besides."""
    for name, build in ROWS.items():
        for model in (nn.ModuleDict({"nodes": nn.ModuleList([Bernoulli(), Bernoulli()])}), net(Categorical, Categorical)):
            try:
                yield name, build(model.double())
                break
            except TypeError:
                continue
        else:
            raise AssertionError(name)
    mlp = nn.Sequential(nn.Linear(2, 2), Bernoulli())
    for kind in (dither.SPSA, dither.FiniteDifference, dither.Exact, dither.Episodes, dither.Auto, dither.PathSampleAnalytic):
        yield kind.__name__, kind(mlp)
    yield "UnorderedSet", dither.UnorderedSet(net(Categorical))
    yield "Episodes of some", dither.Episodes(mlp, nodes=["1"], baseline=nn.Linear(2, 1))
    for kind in NODES:
        yield kind.__name__, kind(2) if "kernel_size" in inspect.signature(kind).parameters else kind()


OBJECTS = dict(configured())


@pytest.mark.parametrize("name", OBJECTS)
def test_repr_shows_every_argument_and_builds_the_same_again(name: str) -> None:
    """Evaluated, with the model in its place, it gives an object of the same repr."""
    shown = OBJECTS[name]
    kind, text = type(shown), " ".join(repr(shown).split())
    arguments = [name for name in inspect.signature(kind).parameters if name != "model"]
    assert text.startswith(f"{kind.__name__}(") and text.endswith(")")
    assert all(f"{argument}=" in text for argument in arguments)
    own = {"nodes", "choice"} - set(inspect.signature(kind).parameters)  # not arguments: what it covers, what it chose
    scope = {**vars(dither.functional), **vars(nn), "inf": math.inf, "partial": partial, **vars(estimators), **vars(nodes)}
    scope |= vars(import_module(kind.__module__))
    given = eval(f"dict({text[len(kind.__name__) + 1 : -1]})", scope)
    given = {key: value for key, value in given.items() if key not in own}
    if kind is dither.Auto:  # candidates by their names
        assert given.pop("candidates") == list(shown.candidates)
    again = kind(shown.model, **given) if hasattr(shown, "model") else kind(**given)
    assert " ".join(repr(again).split()) == text


def test_repr_shows_what_is_true_now() -> None:
    estimator = dither.ReinMax(Bernoulli(), temperature=1.5)
    estimator.temperature, estimator.vectorize = 1.25, False
    assert repr(estimator) == "ReinMax(temperature=1.25, samples=1, vectorize=False, repeated=False, nodes=['node'])"
    assert repr(copy.deepcopy(estimator)) == repr(pickle.loads(pickle.dumps(estimator))) == repr(estimator)


def test_what_was_given_is_not_kept() -> None:
    """A builder that cannot be pickled does not make what it built so."""
    per_node = dither.PerNode(nn.Sequential(Bernoulli()), {"0": lambda model: dither.ScoreFunction(model)})
    assert "<lambda>" in repr(per_node) and repr(pickle.loads(pickle.dumps(per_node))) == repr(per_node)


def test_whatever_is_given_can_be_built_with() -> None:
    class Mute:
        def __repr__(self) -> str:
            raise RuntimeError("no words")

    class Own(dither.ScoreFunction):
        def __init__(self, model: nn.Module, *parts, table, **options) -> None:
            super().__init__(model)

    shown = repr(Own(Bernoulli(), 1, Mute(), table=torch.empty(1 << 20, device="meta"), by=Mute))
    assert shown == f"Own(parts=(1, <Mute>), table=Tensor(shape=({1 << 20},), dtype=torch.float32), by=Mute, nodes=['node'])"


# --- the former order -----------------------------------------------------------------------------------------------------
CONFIGURED = [*CLASSES, *NODES, dither.Auto, dither.Episodes]
FORMER = {kind: vars(kind)["former_order"] for kind in CONFIGURED if "former_order" in vars(kind)}
VALUES = {
    **{"samples": 3, "temperature": 0.7, "scale": 0.2, "baseline": None, "coupling": "systematic", "kind": "control-variate"},
    **{
        "draws": 5,
        "hard": False,
        "quadratic": 2.0,
        "variant": "identity",
        "categories": 2,
        "max_outcomes": 99,
        "control": None,
    },
    **{"max_parameters": 9, "distribution": "normal", "values": (-1, 1), "before": 0.5, "after": 0.25, "stride": 1},
    **{"sampler": dither.functional.bernoulli_straight_through, "discount": 0.5, "candidates": {"loo": dither.StraightThrough}},
}


@pytest.mark.parametrize("kind", FORMER, ids=lambda kind: kind.__name__)
def test_the_former_order_is_taken_with_a_warning_that_names_the_keywords(kind: type) -> None:
    names = FORMER[kind]
    values = {name: 4 if kind is dither.SPSA and name == "samples" else VALUES[name] for name in names}
    if issubclass(kind, nodes.Node):
        first = [2] if "kernel_size" in inspect.signature(kind).parameters else []
    elif kind in (dither.CARMS, dither.UnorderedSet, dither.SumAndSample):
        first = [net(Categorical)]
    else:
        first = [nn.Sequential(nn.Linear(1, 1), Bernoulli())]
    with pytest.warns(FutureWarning, match=f"{kind.__name__} takes {', '.join(names)} by keyword") as caught:
        former = kind(*first, *values.values())
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert repr(kind(*first, **values)) == repr(former)
    assert not set(names) - set(inspect.signature(kind).parameters)


def test_classes_that_users_derive_have_it_too() -> None:
    class Inherits(dither.ScoreFunction):
        pass

    class Own(dither.ScoreFunction):
        former_order = ("strength",)

        def __init__(self, model: nn.Module, *, strength: float = 1.0, **options) -> None:
            super().__init__(model, **options)
            self.strength = strength

    class Passes(dither.ScoreFunction):
        def __init__(self, model: nn.Module, factor: float) -> None:
            super().__init__(model, "mean", samples=2)
            self.factor = factor

    with pytest.warns(FutureWarning, match=r"write Inherits\(model, baseline='mean'\)"):
        assert "baseline='mean'" in repr(Inherits(Bernoulli(), "mean"))
    with pytest.warns(FutureWarning, match=r"write Own\(model, strength=2.0\)"):
        assert repr(Own(Bernoulli(), 2.0, samples=3)) == "Own(strength=2.0, samples=3, nodes=['node'])"
    with pytest.warns(FutureWarning, match="baseline by keyword"):
        assert repr(Passes(Bernoulli(), 0.5)) == "Passes(factor=0.5, nodes=['node'])"


@pytest.mark.parametrize("arguments", [("mean", 2, 0.9), (None, 1, 0.9, True)])
def test_more_than_the_former_order_is_an_error_that_names_the_keywords(arguments: tuple) -> None:
    with pytest.raises(TypeError, match=r"by position and takes 1: give the others by keyword, baseline=\.\.\., samples="):
        dither.ScoreFunction(Bernoulli(), *arguments)


def test_an_argument_twice_is_an_error() -> None:
    with pytest.raises(TypeError, match="by position and takes 1"):
        dither.ScoreFunction(Bernoulli(), "mean", baseline="optimal")


def test_only_what_has_settings_is_configured() -> None:
    assert issubclass(Estimator, Configured) and not issubclass(AuditReport, Configured)


# --- samples count runs of the closure ------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [c for c in CLASSES if "samples" in inspect.signature(c).parameters and c is not Estimator])
def test_samples_are_the_runs_of_a_net_with_one_layer(kind: type) -> None:
    """Or fewer than all of them, where others are no samples of the net's own nodes."""
    count = 2 * max(kind.fewest_samples(), 1)
    node = (Categorical if kind in (dither.CARMS, dither.UnorderedSet) else Bernoulli)()
    node.logits = nn.Parameter(torch.zeros(2, 5, dtype=torch.float64))
    if kind is dither.UnorderedSet:
        node.logits = nn.Parameter(torch.zeros(2, 1, 5, dtype=torch.float64))
    estimator = kind(node, samples=count)
    estimator(lambda: node(node.logits).flatten(1).sum(1))
    others = {dither.MuProp: 1, dither.NodePerturbation: count, dither.REBAR: 2 * count, dither.RELAX: 2 * count}.get(kind, 0)
    assert estimator.evaluations == count + others


@pytest.mark.parametrize("kind", [dither.ARM, dither.DisARM, dither.SPSA])
def test_pairs_are_two_samples(kind: type) -> None:
    with pytest.raises(
        ValueError, match=rf"samples is 3: {kind.__name__} runs the closure in pairs.*give samples=4 for 2 pairs"
    ):
        kind(nn.Sequential(nn.Linear(1, 1), Bernoulli()), samples=3)
    assert inspect.signature(kind).parameters["samples"].default == 2
    assert (
        dither.methods.build(dither.methods.spelling(kind), nn.Sequential(nn.Linear(1, 1), Bernoulli()), samples=3).samples == 4
    )


def test_every_layer_of_a_pair_has_a_run() -> None:
    net = nn.Sequential(nn.Linear(3, 3), Bernoulli(), nn.Linear(3, 3), Bernoulli(), nn.Linear(3, 1))
    for samples in (2, 4):
        estimator = dither.DisARM(net, samples=samples)
        estimator(lambda: net(torch.ones(2, 3)).square().sum(1))
        assert estimator.evaluations == samples // 2 * (1 + 2)
