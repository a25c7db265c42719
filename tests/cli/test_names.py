"""The names of the command line: what they stand for, and that none is missing."""

import inspect
from typing import get_args

import pytest
import torch
from torch import nn

import dither
from dither import estimators
from dither.cli.errors import UsageError
from dither.cli.names import METHODS, AuditName, EstimatorName, TrainName, build

NAMES = get_args(EstimatorName)
CATEGORICAL = ("carms", "unordered-set")


def network(name):
    """A net that the method takes, and its cost."""
    torch.manual_seed(0)
    node, units = (dither.Categorical(), 3) if name in CATEGORICAL else (dither.Bernoulli(), 2)
    net = nn.Sequential(nn.Linear(3, units), node, nn.Linear(units, 1))
    if name == "unordered-set":
        net.insert(1, nn.Unflatten(1, (1, units)))
        net.insert(3, nn.Flatten())
    return net, lambda: net(torch.ones(4, 3)).square().sum(1)


def test_help_lists_what_the_table_holds():
    assert set(NAMES) == set(METHODS) - {"auto"} and len(NAMES) == len(set(NAMES))
    assert set(get_args(TrainName)) == set(METHODS) and set(get_args(AuditName)) == {*NAMES, "all"}


def test_every_exported_estimator_has_a_name():
    classes = {name for name in estimators.__all__ if inspect.isclass(found := getattr(estimators, name))
               and issubclass(found, dither.Estimator)}  # fmt: skip
    needs_more_than_a_name = {"Estimator", "PerNode"}
    assert {method.kind for method in METHODS.values()} == classes - needs_more_than_a_name | {"Auto"}


@pytest.mark.parametrize("name", METHODS)
def test_every_name_builds_what_estimates(name):
    net, closure = network(name)
    notes = []
    estimator = build(name, net, 1, notes.append)
    assert type(estimator).__name__ == METHODS[name].kind
    least = METHODS[name].least
    assert len(notes) == (least > 1) and (least == 0 or estimator.samples == least)
    assert all(name in note and f"{least} instead of 1" in note for note in notes)
    loss = estimator(closure)
    loss.backward()
    assert torch.isfinite(loss.detach()) and all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.least > 1])
def test_the_least_number_of_samples_is_the_least(name):
    method = METHODS[name]
    with pytest.raises(ValueError, match="samples"):
        getattr(dither, method.kind)(network(name)[0], **method.arguments, samples=method.least - 1)


def test_arguments_distinguish_names_of_one_class():
    net, _ = network("")
    assert build("straight-through-clipped", net, 3).variant == "clipped"
    assert build("blend", net, 3).kind == "prediction" and build("blend-control-variate", net, 3).unbiased
    assert build("disarm", net, 3).samples == 3
    assert build("auto", net, 3).by == "evaluations", "by time the same command would not give the same weights"


def test_a_model_that_a_method_does_not_take_is_a_usage_error():
    with pytest.raises(UsageError, match=r"^carms: CARMS cannot credit node '1', a Bernoulli"):
        build("carms", network("")[0], 2)
