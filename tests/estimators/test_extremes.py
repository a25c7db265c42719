"""Every estimator on input that tempts arithmetic: saturated logits, heavy tails, costs without variance, bad costs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dither import Bernoulli, Categorical, estimators
from dither.estimators import Estimator

CLASSES = [c for c in vars(estimators).values() if isinstance(c, type) and issubclass(c, Estimator)]
ROWS = {name: build for c in CLASSES for name, build in c.configurations().items() if not name.startswith("PerNode")}
SATURATED = [50.0, -50.0, torch.inf, -torch.inf, 0.3, 0.0]


def binary(values: list[float]) -> tuple[nn.Module, torch.Tensor]:
    return nn.ModuleDict({"node": Bernoulli()}), torch.tensor([values, values], requires_grad=True)


def categorical(values: list[float]) -> tuple[nn.Module, torch.Tensor]:
    return nn.ModuleDict({"node": Categorical()}), torch.tensor([values, values]).view(2, -1, 2).requires_grad_()


def built(name: str, model: nn.Module) -> Estimator:
    try:
        return ROWS[name](model)
    except TypeError as error:  # said so by the facts, and in the message
        assert ": it needs " in str(error)
        pytest.skip(str(error))


@pytest.mark.parametrize("make", [binary, categorical], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ROWS)
def test_gradients_stay_finite(name: str, make) -> None:
    """Logits of +-50 and of +-inf, costs of 1e15 now and then, and costs that never vary."""
    values = SATURATED if make is binary else [50.0, -50.0, -torch.inf, 0.4, 0.0, 0.1]
    model, logits = make(values)
    estimator = built(name, model)

    def smooth() -> torch.Tensor:
        return (model["node"](logits).flatten(1).sum(1) - 1.3) ** 2

    def heavy() -> torch.Tensor:
        return 1e15 * smooth() ** 3

    def constant() -> torch.Tensor:
        return 0 * smooth() + 2

    torch.manual_seed(0)
    for closure in (smooth, heavy, constant, smooth):
        for _ in range(3):
            (gradient,) = torch.autograd.grad(estimator(closure), logits, allow_unused=True, materialize_grads=True)
            assert torch.isfinite(gradient).all(), f"{closure.__name__}: {gradient}"


@pytest.mark.parametrize("name", ROWS)
def test_bad_costs_are_refused_in_words(name: str) -> None:
    make = binary
    model, logits = make([0.1, -0.4, 0.3])
    estimator = built(name, model)
    with pytest.raises(ValueError, match="scalar"):
        estimator(lambda: model["node"](logits).sum())
    for value in (torch.nan, torch.inf):
        with pytest.raises(FloatingPointError, match="not finite"):
            estimator(lambda v=value: model["node"](logits).sum(1) + v)
    with pytest.raises(ValueError, match="called none of the nodes"):
        estimator(lambda: logits.sum(1))


@pytest.mark.parametrize("build", [estimators.ARMS, estimators.CARMS, estimators.DoubleCV, estimators.Blend, estimators.VIMCO,
                                   estimators.RODEO])  # fmt: skip
def test_methods_that_compare_samples_refuse_one(build) -> None:
    with pytest.raises(ValueError, match=r"samples"):
        build((categorical([0.1, 0.2]) if build is estimators.CARMS else binary([0.1]))[0], samples=1)
