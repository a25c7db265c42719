"""The oracle: sums over all joint outcomes of the library's own samplers, for nets small enough.

Each node says how its noise falls into parts of known weight (`Node.partition`): two per binary unit, K per categorical one,
quadrature nodes for a continuous one. The closure runs once, on every combination of parts at once (`torch.func.vmap`),
with representative noise from each part put where the random noise would be. So what is enumerated is the library's own
code path, from noise to gradient. Where samples decide in Python what is sampled next, as in a net that stops early, the
combinations are walked through one after the other (`vectorize=False`), each as long as it is.

- `expected_cost`, `gradient`: of the model itself. Examples of a batch are independent, so they share the combinations.
- `moments`: the exact expectation and variance of an *estimator's* gradient, over all its samples and examples jointly.
"""

from dither.exact._enumeration import MAX_OUTCOMES, TooManyOutcomes
from dither.exact._expectation import (
    Expectation,
    concatenate,
    expectation,
    expected_cost,
    gradient,
    parameter_gradients,
    trainable,
)
from dither.exact._moments import Moments, expected_loss, moments, outcomes
from dither.exact._oracle import Oracle
from dither.exact._path import CannotEnumerate

__all__ = [
    "MAX_OUTCOMES",
    "CannotEnumerate",
    "Expectation",
    "Moments",
    "Oracle",
    "TooManyOutcomes",
    "concatenate",
    "expectation",
    "expected_cost",
    "expected_loss",
    "gradient",
    "moments",
    "outcomes",
    "parameter_gradients",
    "trainable",
]
