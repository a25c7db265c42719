"""Operators that do the work: noise by key fused with what consumes it, samples as packed bits, products with them.

Each has a plain torch implementation (`_reference`), a native one for the CPU (the package dither-kernels) and, where
it is worth it, one in Triton: with the same samples. Nodes, estimators and `dither.noise` use them by themselves;
`path()` says which is in use, and DITHER_KERNELS=torch turns the native ones off.
"""

from dither.kernels._arguments import require_possible
from dither.kernels._dispatch import RANDOMNESS_ERROR, plain, readable, recording, widen
from dither.kernels._library import REASON, library, path
from dither.kernels._log_prob import bernoulli_log_prob, bernoulli_terms
from dither.kernels._noise import Key, normal, uniform
from dither.kernels._packed import (
    bernoulli_bits,
    bernoulli_packed,
    pack,
    packed_linear,
    packed_log_prob,
    packed_outer,
    packed_score,
    unpack,
)
from dither.kernels._philox import key_of, philox, philox_words
from dither.kernels._samples import (
    bernoulli,
    bernoulli_from_uniform,
    categorical,
    categorical_from_uniform,
    noisy_relu,
    noisy_tanh,
    salt_and_pepper,
    straight_through,
)

__all__ = [
    "RANDOMNESS_ERROR",
    "REASON",
    "Key",
    "bernoulli",
    "bernoulli_bits",
    "bernoulli_from_uniform",
    "bernoulli_log_prob",
    "bernoulli_packed",
    "bernoulli_terms",
    "categorical",
    "categorical_from_uniform",
    "key_of",
    "library",
    "noisy_relu",
    "noisy_tanh",
    "normal",
    "pack",
    "packed_linear",
    "packed_log_prob",
    "packed_outer",
    "packed_score",
    "path",
    "philox",
    "philox_words",
    "plain",
    "readable",
    "recording",
    "require_possible",
    "salt_and_pepper",
    "straight_through",
    "uniform",
    "unpack",
    "widen",
]
