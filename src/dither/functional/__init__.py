"""Pure functions of (logits, noise): no state, no generator. Each works under compile, vmap, autocast and any strides."""

from dither.functional._bernoulli import (
    bernoulli_entropy,
    bernoulli_log_prob,
    bernoulli_reinmax,
    bernoulli_sample,
    bernoulli_slope_annealed,
    bernoulli_straight_through,
    bernoulli_straight_through_clipped,
    bernoulli_straight_through_sigmoid,
)
from dither.functional._categorical import (
    categorical_entropy,
    categorical_log_prob,
    categorical_sample,
    categorical_straight_through,
    gumbel,
    gumbel_softmax,
    reinmax,
)
from dither.functional._gumbel import (
    bernoulli_gumbel_rao,
    bernoulli_gumbel_softmax,
    gumbel_rao,
)
from dither.functional._mve import (
    bernoulli_mve,
    mve,
)
from dither.functional._noisy import (
    noisy_max_pool2d,
    noisy_relu,
    noisy_tanh,
    stochastic_pool2d,
    stochastic_pool2d_mean,
    stochastic_pool2d_pick,
    stochastic_pool2d_probabilities,
    stochastic_pool2d_sample,
    windows,
)
from dither.functional._surrogate import (
    score_function_surrogate,
)

# Those that draw keyed noise on the fly.
KEYED = (
    bernoulli_sample,
    bernoulli_straight_through,
    bernoulli_straight_through_clipped,
    bernoulli_straight_through_sigmoid,
    categorical_sample,
    categorical_straight_through,
    noisy_relu,
    noisy_tanh,
)

__all__ = [
    "bernoulli_entropy",
    "bernoulli_gumbel_rao",
    "bernoulli_gumbel_softmax",
    "bernoulli_log_prob",
    "bernoulli_mve",
    "bernoulli_reinmax",
    "bernoulli_sample",
    "bernoulli_slope_annealed",
    "bernoulli_straight_through",
    "bernoulli_straight_through_clipped",
    "bernoulli_straight_through_sigmoid",
    "categorical_entropy",
    "categorical_log_prob",
    "categorical_sample",
    "categorical_straight_through",
    "gumbel",
    "gumbel_rao",
    "gumbel_softmax",
    "mve",
    "noisy_max_pool2d",
    "noisy_relu",
    "noisy_tanh",
    "reinmax",
    "score_function_surrogate",
    "stochastic_pool2d",
    "stochastic_pool2d_mean",
    "stochastic_pool2d_pick",
    "stochastic_pool2d_probabilities",
    "stochastic_pool2d_sample",
    "windows",
]
