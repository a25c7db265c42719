"""Transforms of torch.func around an estimator and inside its closure: right, or refused with the remedy, and nothing kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import dither
from dither import exact

F64 = torch.float64
Build = Callable[[nn.Module], dither.Estimator]

ALONE: dict[str, Build] = {
    "score": dither.ScoreFunction,
    "leave-one-out": partial(dither.ScoreFunction, baseline="leave-one-out", samples=2),
    "DisARM": dither.DisARM,
    "MuProp": dither.MuProp,
    "ForwardOnly": dither.ForwardOnly,
}
LEARNING: dict[str, Build] = {
    "mean": partial(dither.ScoreFunction, baseline="mean"),
    "optimal": partial(dither.ScoreFunction, baseline="optimal"),
    "REBAR": dither.REBAR,
    "DoubleCV": dither.DoubleCV,
    "Blend": dither.Blend,
    "NVIL": dither.NVIL,
    "ForwardOnly, mean": partial(dither.ForwardOnly, baseline="mean"),
}


def net_and_inputs() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), dither.Bernoulli()).double(), torch.randn(4, 2, dtype=F64)


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("name", [*ALONE, *LEARNING, "StraightThrough"])
def test_a_node_in_a_transform_of_the_closure_is_refused(name: str, vectorize: bool) -> None:
    net, x = net_and_inputs()
    estimator = (ALONE | LEARNING | {"StraightThrough": dither.StraightThrough})[name](net)
    estimator.vectorize = vectorize
    mapped = lambda: vmap(lambda z: net(z.unsqueeze(0)).sum(), randomness="different")(x)  # noqa: E731
    slope = lambda: grad(lambda z: net(z).sum())(x).sum(1)  # noqa: E731
    for closure in (mapped, slope):
        with pytest.raises(RuntimeError, match="call the estimator itself in the transform") as caught:
            estimator(closure)
        assert not getattr(caught.value, "__notes__", [])
    estimator(lambda: net(x).sum(1)).backward()  # nothing of it is left


@pytest.mark.parametrize("name", [*ALONE, *LEARNING])
def test_an_ensemble_of_calls_is_right_or_refused_and_leaves_nothing(name: str) -> None:
    """vmap(grad(estimator)) over copies of the weights; one that learns needs to be frozen."""
    net, x = net_and_inputs()
    estimator = (ALONE | LEARNING)[name](net)
    estimator.examples = "separate"
    copies = {k: torch.stack([p.detach(), p.detach() + 0.5]) for k, p in net.named_parameters()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return estimator(lambda: (functional_call(net, weights, (x,)).sum(1) - 0.5).square())

    ensemble = vmap(grad(loss), randomness="different")
    if name in LEARNING:
        with pytest.raises(RuntimeError, match=r"with estimator\.frozen"):
            ensemble(copies)
        estimator(lambda: net(x).sum(1)).backward()
        with estimator.frozen():
            gradients = ensemble(copies)
    else:
        gradients = ensemble(copies)
    assert all(g.shape == copies[k].shape and g.isfinite().all() for k, g in gradients.items())
    estimator(lambda: net(x).sum(1)).backward()
    assert all(type(tensor) is Tensor for tensor in estimator.state_dict().values())


@pytest.mark.parametrize("keep", ["logits", "bits"])
@pytest.mark.parametrize("depth", [1, 2])
def test_forward_only_gives_the_gradient_to_the_weights_that_ran(keep: Literal["logits", "bits"], depth: int) -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(2, 2), dither.Bernoulli())]
    net = nn.Sequential(*layers).double()
    x = torch.randn(1, 2, dtype=F64)
    weights = {k: (p.detach() + 0.2).requires_grad_() for k, p in net.named_parameters()}
    loss = exact.expected_loss(
        dither.ForwardOnly(net, keep=keep), lambda: (functional_call(net, weights, (x,)).sum(1) - 0.5).square()
    )
    got = torch.autograd.grad(loss, list(weights.values()))
    with torch.no_grad():
        for k, p in net.named_parameters():
            p.copy_(weights[k])
    truth = exact.gradient(net, lambda: (net(x).sum(1) - 0.5).square())
    for (k, wanted), g in zip(truth.items(), got, strict=True):
        torch.testing.assert_close(g, wanted, rtol=0, atol=1e-10, msg=k)
    sampled = dither.ForwardOnly(net, keep=keep)(lambda: (functional_call(net, weights, (x,)).sum(1) - 0.5).square())
    assert all(g is not None for g in torch.autograd.grad(sampled, list(weights.values()), allow_unused=True))
