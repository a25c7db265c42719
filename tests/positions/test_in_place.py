"""`h = node(a); h *= 1.5; h += a`, as residual connections are often written, has the gradient of `1.5 * node(a) + a`."""

import pytest
import torch
from torch import Tensor

import dither

NODES = {
    "binary": (dither.Bernoulli, (4, 3)),
    "binary, no unit dimension": (dither.Bernoulli, (4,)),
    "categorical": (dither.Categorical, (4, 2, 3)),
    "tanh": (dither.NoisyTanh, (4, 3)),
    "rectifier": (dither.NoisyReLU, (4, 3)),
}


@pytest.mark.parametrize("samples", [0, 1, 2])
@pytest.mark.parametrize("name", NODES)
def test_an_output_may_be_changed_in_place(name: str, samples: int) -> None:
    make, shape = NODES[name]
    node = make()
    logits = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape).requires_grad_()

    def in_place() -> Tensor:
        h = node(1.0 * logits)
        h *= 1.5
        h += logits
        return torch.sin(h).reshape(len(h), -1).sum(1)

    def out_of_place() -> Tensor:
        return torch.sin(1.5 * node(1.0 * logits) + logits).reshape(len(logits), -1).sum(1)

    def gradient(cost) -> Tensor:
        torch.manual_seed(3)
        loss = dither.StraightThrough(node, samples=samples)(cost) if samples else cost().sum()
        return torch.autograd.grad(loss, logits)[0]

    expected = gradient(out_of_place)
    if name == "rectifier":  # keeps its output, as torch.relu does
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            gradient(in_place)
    else:
        torch.testing.assert_close(gradient(in_place), expected)
