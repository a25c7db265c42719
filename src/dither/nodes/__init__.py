"""Stochastic nodes: ordinary modules, logits in, hard sample out."""

from dither.nodes._bernoulli import Bernoulli
from dither.nodes._categorical import Categorical
from dither.nodes._deterministic import deterministic
from dither.nodes._node import Node, named_nodes, taken_over
from dither.nodes._noisy import NoisyReLU, NoisyTanh
from dither.nodes._pooling import NoisyMaxPool2d, StochasticPool2d

__all__ = [
    "Bernoulli",
    "Categorical",
    "Node",
    "NoisyMaxPool2d",
    "NoisyReLU",
    "NoisyTanh",
    "StochasticPool2d",
    "deterministic",
    "named_nodes",
    "taken_over",
]
