"""Likely slips, each with an error that names the remedy; and estimators, built or to be built, wherever either is taken."""

from functools import partial

import pytest
import torch
from torch import nn

import dither
from dither import Bernoulli, Categorical, DisARM, PerNode, ScoreFunction, StraightThrough, exact, testing

NET = nn.Sequential(nn.Linear(2, 2), Bernoulli(), nn.Linear(2, 1)).double()
X = torch.ones(1, 2, dtype=torch.float64)


def cost() -> torch.Tensor:
    return NET(X).square().sum(1)


SLIPS = {
    "a probability": (lambda: Bernoulli(0.5), r"values is 0.5: .*torch.logit\(p\)"),
    "a number of units": (lambda: Bernoulli(10), "values is 10: .*number of units is theirs"),
    "a number of categories": (
        lambda: Categorical(10),
        "sampler is 10: .*categories is the size of the logits' last dimension",
    ),
    "a sampler by its name": (lambda: Bernoulli(sampler="straight-through"), "sampler is 'straight-through': a function"),
    "the parameters": (lambda: DisARM(NET.parameters()), r"model is generator: .*DisARM\(net\).*net.parameters\(\) to the opt"),
    "the parameters in a list": (lambda: DisARM(list(NET.parameters())), "model is parameters: .*give the net itself"),
    "the closure": (lambda: DisARM(cost), r"model is a function: .*DisARM\(net\)\(closure\)"),
    "the class of a model": (lambda: DisARM(Bernoulli), r"model is the class Bernoulli: .*such as DisARM\(Bernoulli\(\)\)"),
    "a dict": (lambda: DisARM({"a": NET}), r"model is a dict: .*list\(modules.values\(\)\)"),
    "no modules": (lambda: DisARM([]), r"model is a list of no modules: .*\[encoder, decoder\]"),
    "a list with something else": (lambda: DisARM([NET, None]), "model is a list with NoneType in it"),
    "a string for a model": (lambda: DisARM("mlp"), "model is 'mlp': an estimator is built on a torch.nn.Module"),
    "a cost": (
        lambda: DisARM(NET)(cost()),
        r"closure is Tensor of shape \(1,\): DisARM is called on a function.*estimator\(lambda: ",
    ),
    "a loss": (lambda: dither.Exact(NET)(cost().mean()), r"closure is Tensor of shape \(\): Exact is called on"),
    "a cost, to SPSA": (lambda: dither.SPSA(NET)(cost()), "closure is Tensor .*SPSA is called on"),
    "a cost, to Auto": (lambda: dither.Auto(NET, candidates={"a": DisARM})(cost()), "closure is Tensor .*Auto is called on"),
    "nothing": (lambda: DisARM(NET)(None), "closure is NoneType: DisARM is called on a function without arguments"),
    "another's keyword": (lambda: DisARM(NET, baseline=None), "DisARM takes no 'baseline': it takes model, samples, credit"),
    "a keyword misspelt": (lambda: ScoreFunction(NET, vectorise=True), "ScoreFunction takes no 'vectorise'; did you mean 'vec"),
    "p": (lambda: Bernoulli(p=0.5), "Bernoulli takes no 'p': it takes values, sampler"),
    "an estimator": (lambda: ScoreFunction(DisARM(NET)), r"model is a DisARM, .*ScoreFunction\(estimator.model\)"),
    "no samples": (lambda: ScoreFunction(NET, samples=0), "samples is 0: it must be an integer from 1"),
    "samples of a string": (lambda: ScoreFunction(NET, samples="3"), "samples is '3': it must be an integer"),
    "samples of a string, Blend": (lambda: dither.Blend(NET, samples="3"), "samples is '3': it must be an integer"),
    "samples of a float": (lambda: StraightThrough(NET, samples=2.0), "samples is 2.0: it must be an integer"),
    "loo": (lambda: ScoreFunction(NET, baseline="loo", samples=2), "baseline is 'loo': .*did you mean 'leave-one-out'"),
    "leave_one_out": (lambda: ScoreFunction(NET, baseline="leave_one_out"), "did you mean 'leave-one-out'"),
    "optimum": (lambda: ScoreFunction(NET, baseline="optimum"), "did you mean 'optimal'"),
    "sigmoidal": (lambda: StraightThrough(NET, variant="sigmoidal"), "variant is 'sigmoidal': .*did you mean 'sigmoid'"),
    "cv": (lambda: dither.Blend(NET, kind="cv"), "kind is 'cv': .*did you mean 'control-variate'"),
    "gauss": (lambda: dither.SPSA(NET, distribution="norm"), "distribution is 'norm': .*did you mean 'normal'"),
    "one estimator for PerNode": (
        lambda: PerNode(NET, DisARM),
        r"estimators is the class DisARM: give a dict .*no PerNode is needed",
    ),
    "a string for PerNode": (
        lambda: PerNode(NET, {"1": "disarm"}),
        "estimator for '1' is the string 'disarm': .*methods.build",
    ),
    "a model for an estimator": (lambda: PerNode(NET, {"1": NET}), "estimator for '1' is Sequential: give a class"),
    "a string for Auto": (lambda: dither.Auto(NET, candidates={"a": "disarm"}), r"candidates\['a'\] is the string 'disarm'"),
    "a string for audit": (lambda: dither.audit(NET, cost, ["disarm"]), "an estimator is the string 'disarm'"),
    "one string for audit": (lambda: dither.audit(NET, cost, "disarm"), "estimators is 'disarm': give a list or a dict"),
    "one estimator for audit": (lambda: dither.audit(NET, cost, DisARM(NET)), "estimators is DisARM.*: give a list or a dict"),
    "a builder of nothing": (lambda: dither.audit(NET, cost, [lambda net: None]), "built NoneType: .*must return an estimator"),
    "another model": (lambda: dither.audit(NET, cost, [DisARM(Bernoulli())]), "was built on another model: build it on this"),
    "a string to check": (lambda: testing.check_estimator("disarm"), "build is the string 'disarm'"),
    "an instance to check": (lambda: testing.check_estimator(DisARM(NET)), "build is an estimator .*assert_unbiased"),
    "an instance in positions": (lambda: testing.check_positions(DisARM(NET)), "build is an estimator .*many are needed"),
    "a string to assert": (lambda: testing.assert_unbiased("disarm", NET, cost), "estimator is the string 'disarm'"),
    "a class for a bias": (lambda: testing.bias(DisARM, cost), r"estimator is <class .*build it, such as dither.DisARM\(net\)"),
    "a class for moments": (lambda: exact.moments(DisARM, cost), r"estimator is <class .*build it"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_names_its_remedy(slip: str) -> None:
    call, message = SLIPS[slip]
    with pytest.raises((TypeError, ValueError), match=message):
        call()
    assert DisARM(NET)(cost).isfinite()


# --- builders and instances -----------------------------------------------------------------------------------------------
BUILDERS = {
    "class": lambda model: ScoreFunction,
    "partial": lambda model: partial(ScoreFunction, baseline="mean"),
    "function": lambda model: lambda given: ScoreFunction(given),
    "instance": lambda model: ScoreFunction(model),
}
PLACES = {
    "PerNode": lambda model, build, closure: PerNode(model, {"*": build})(closure),
    "Auto": lambda model, build, closure: dither.Auto(model, candidates={"a": build}, draws=2)(closure),
    "audit": lambda model, build, closure: dither.audit(model, closure, {"a": build}, draws=2, warmup=0),
    "audit, list": lambda model, build, closure: dither.audit(model, closure, [build], draws=2, warmup=0),
    "assert_unbiased": lambda model, build, closure: testing.assert_unbiased(build, model, closure),
}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", BUILDERS)
def test_builders_and_instances_are_taken_alike(kind: str, place: str, several: bool) -> None:
    encoder, decoder = (
        nn.Sequential(nn.Linear(2, 2), Bernoulli()).double(),
        nn.Sequential(nn.Linear(2, 1), Bernoulli()).double(),
    )
    model = [encoder, decoder] if several else nn.Sequential(encoder, decoder)
    before = [p.detach().clone() for part in (encoder, decoder) for p in part.parameters()]
    PLACES[place](model, BUILDERS[kind](model), lambda: decoder(encoder(X)).square().sum(1))
    assert all(torch.equal(p, b) for p, b in zip([*encoder.parameters(), *decoder.parameters()], before, strict=True))


def test_the_exact_gradient_of_several_modules_is_that_of_one() -> None:
    encoder, decoder = nn.Sequential(nn.Linear(2, 2), Bernoulli()).double(), nn.Linear(2, 1).double()
    closure = lambda: decoder(encoder(X)).square().sum(1)  # noqa: E731
    several, one = exact.gradient([encoder, decoder], closure), exact.gradient(nn.Sequential(encoder, decoder), closure)
    assert several.keys() == one.keys() and all(torch.equal(several[name], one[name]) for name in one)
    moments = exact.moments(DisARM([encoder, decoder]), closure)
    assert all(torch.allclose(moments.mean[name], one[name], rtol=0, atol=1e-12) for name in one)


def test_an_instance_in_per_node_covers_its_own_nodes() -> None:
    net = nn.ModuleDict({"a": Bernoulli(), "b": Bernoulli()})
    with pytest.raises(ValueError, match="covers a, b instead of a; build it on the model that it is given"):
        PerNode(net, {"a": ScoreFunction(net)})
