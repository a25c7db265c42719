"""The stochastic multilayer perceptron."""

import pytest
import torch

import dither
from dither.models.mlp import StochasticMLP


def test_shapes_layers_and_fresh_noise():
    torch.manual_seed(0)
    net = StochasticMLP((64, 30, 20, 10))
    x = torch.rand(5, 8, 8)
    assert net(x).shape == (5, 10) and len(net.nodes) == 2
    assert not torch.equal(net(x), net(x))
    with dither.deterministic("mean"):
        assert torch.equal(net(x), net(x))


def test_the_node_is_built_once_per_hidden_layer():
    net = StochasticMLP((4, 3, 3, 2), node=lambda: dither.Bernoulli(values=(-1, 1)))
    assert net.nodes[0] is not net.nodes[1] and all(node.values == (-1, 1) for node in net.nodes)


def test_without_hidden_layers_it_is_linear():
    net = StochasticMLP((4, 2))
    x = torch.rand(3, 4)
    assert torch.equal(net(x), net.linears[0](x))


def test_gain_scales_the_weights_before_nodes_and_no_other():
    torch.manual_seed(0)
    plain = StochasticMLP((4, 3, 2))
    torch.manual_seed(0)
    scaled = StochasticMLP((4, 3, 2), gain=5.0)
    assert torch.equal(scaled.linears[0].weight, 5 * plain.linears[0].weight)
    assert torch.equal(scaled.linears[0].bias, plain.linears[0].bias)
    assert torch.equal(scaled.linears[1].weight, plain.linears[1].weight)


@pytest.mark.parametrize(
    ("more", "words"),
    [({"sizes": (4,)}, "at least two"), ({"sizes": (4, 0, 2)}, "positive widths"), ({"gain": 0.0}, "gain is 0.0"),
     ({"gain": float("nan")}, "gain is nan")],
)  # fmt: skip
def test_bad_arguments(more, words):
    with pytest.raises(ValueError, match=words):
        StochasticMLP(**more)


def test_an_input_of_another_width_says_which_to_build():
    with pytest.raises(ValueError, match=r"built for 64: build it with sizes=\(9, \.\.\.\)"):
        StochasticMLP()(torch.zeros(2, 3, 3))
