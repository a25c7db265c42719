"""The names of the command line: what they build, and what is refused."""

import pytest
import torch
from torch import nn

import dither
from dither import methods
from dither.cli.errors import UsageError
from dither.cli.names import build

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


@pytest.mark.parametrize("name", methods.every())
def test_every_name_builds_what_estimates(name):
    net, closure = network(name)
    notes = []
    estimator = build(name, net, 1, notes.append)
    assert isinstance(estimator, methods.class_of(name.partition(":")[0]))
    least = methods.fewest_samples(name)
    assert len(notes) == (least > 1) and (least == 0 or estimator.samples == least)
    assert all(name in note and f"{least} instead of 1" in note for note in notes)
    loss = estimator(closure)
    loss.backward()
    assert torch.isfinite(loss.detach()) and all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", [name for name in methods.every() if methods.fewest_samples(name) > 1])
def test_fewer_samples_than_the_fewest_are_refused(name):
    kind, arguments = methods.parse(name)
    with pytest.raises(ValueError, match="samples"):
        kind(network(name)[0], **arguments, samples=methods.fewest_samples(name) - 1)


def test_arguments_distinguish_names_of_one_class():
    net, _ = network("")
    assert build("straight-through:clipped", net, 3).variant == "clipped"
    assert build("blend", net, 3).kind == "prediction" and build("blend:control-variate", net, 3).unbiased
    assert build("disarm", net, 3).samples == 4 and build("disarm:samples=2", net, 3).samples == 2
    assert build("auto:evaluations", net, 3).by == "evaluations"


def test_a_model_that_a_method_does_not_take_is_a_usage_error():
    with pytest.raises(UsageError, match=r"^carms: CARMS cannot credit node '1', a Bernoulli"):
        build("carms", network("")[0], 2)


def test_a_spelling_that_means_nothing_is_a_usage_error():
    with pytest.raises(UsageError, match="perhaps you meant disarm"):
        build("disrm", network("")[0], 2)
