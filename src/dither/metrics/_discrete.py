"""Small discrete spaces, exactly: their states, distributions over them, and the transitions of a denoising chain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOLERANCE = 1e-9  # how far a sum of probabilities may be from one


def all_states(units: int, *, values: int = 2) -> Tensor:
    """Every state of `units` variables that take 0 ... values - 1: (values**units, units) int64, the last unit fastest.

    Raises      ValueError for no units, no values, or more than 2^20 states.
    """
    if units < 1 or values < 1 or units * math.log2(values) > 20:
        raise ValueError(f"units={units}, values={values}: both at least 1 and values**units at most 2^20 are needed")
    index = torch.arange(values**units, dtype=torch.int64, device="cpu").unsqueeze(1)
    return index // values ** torch.arange(units - 1, -1, -1, dtype=torch.int64, device="cpu") % values


def transition_matrix(log_corruption: Tensor, log_reconstruction: Tensor) -> Tensor:
    """The Markov chain that corrupts and then reconstructs, over all its states.

    Formula     T[x, x'] = Σ_x~ C(x~ | x) P(x' | x~).
    Shapes      log_corruption (X, C): row x is log C(. | x); log_reconstruction (C, X): row x~ is log P(. | x~); -inf
                where something cannot be. Returns (X, X) float64; what is below 1e-308 is 0 in it.
    Raises      ValueError for other shapes, NaN, or rows that do not sum to one within 1e-9
                (take log_softmax in float64).
    Source      Bengio, Yao, Alain and Vincent 2013 (generalized denoising auto-encoders), Sec. 3.
    """
    corruption = _probabilities("log_corruption", log_corruption)
    reconstruction = _probabilities("log_reconstruction", log_reconstruction)
    if corruption.shape != reconstruction.T.shape:
        raise ValueError(
            f"log_corruption has shape {tuple(corruption.shape)} and log_reconstruction {tuple(reconstruction.shape)}: "
            "(states, corrupted states) and (corrupted states, states) are needed; transpose one of them"
        )
    return check_rows("the transition matrix", corruption @ reconstruction)


def kl(p: Tensor, q: Tensor) -> float:
    """Kullback-Leibler divergence Σ p log(p / q) of two distributions over the same states, in nats.

    Returns     +inf where q = 0 < p; what rounding leaves below 0 is 0.
    Shapes      p, q (states,).
    Raises      ValueError if one of them is no distribution: shape, NaN, a negative entry, a sum off one by more than
                1e-9.
    """
    p, q = distribution("p", p), distribution("q", q)
    if p.shape != q.shape:
        raise ValueError(f"p has {len(p)} states and q has {len(q)}: distributions over the same states are needed")
    p, q = p[p > 0], q[p > 0]
    return max(0.0, float((p * (p.log() - q.log())).sum()))


def conditional(p: Tensor, states: Tensor, clamp_mask: Tensor, values: Tensor) -> Tensor:
    """p given the values of some units: 0 for the states that disagree, the others normalised again.

    Shapes      p (states,), states (states, units), clamp_mask (units,) bool: which units are clamped; values (units,),
                of which only the clamped ones are read. Returns (states,) float64.
    Raises      ValueError for other shapes, a p that is no distribution, or clamped values of probability 0.
    """
    p = distribution("p", p)
    if states.dim() != 2 or len(states) != len(p):
        raise ValueError(f"states has shape {tuple(states.shape)}, p {len(p)} entries: one row of states per entry is needed")
    for name, vector in (("clamp_mask", clamp_mask), ("values", values)):
        if vector.shape != states.shape[1:]:
            raise ValueError(f"{name} has shape {tuple(vector.shape)}: one entry for each of {states.shape[1]} units is needed")
    if clamp_mask.dtype != torch.bool:
        raise ValueError(f"clamp_mask is {clamp_mask.dtype}: True where a unit is clamped is needed; pass clamp_mask.bool()")
    agrees = ((states == values) | ~clamp_mask).all(1)
    joint = torch.where(agrees, p, 0.0)
    total = joint.sum()
    if not bool(total > 0):
        raise ValueError(
            f"values {values[clamp_mask].tolist()} of units {clamp_mask.nonzero().flatten().tolist()} have probability 0 under "
            "p: nothing can be conditioned on them"
        )
    return joint / total


def distribution(name: str, p: Tensor) -> Tensor:
    """p (states,) as float64; ValueError naming `name` if it is no distribution."""
    if p.dim() != 1 or len(p) == 0:
        raise ValueError(f"{name} has shape {tuple(p.shape)}: one probability per state, shape (states,), is needed")
    return check_rows(name, p.detach().to(torch.float64).unsqueeze(0))[0]


def check_rows(name: str, matrix: Tensor) -> Tensor:
    """`matrix` (rows, states), if every row is a distribution; ValueError naming `name` otherwise."""
    wrong = ~((matrix >= 0) & (matrix < torch.inf))  # NaN too
    if bool(wrong.any()):
        raise ValueError(f"{name} holds {float(matrix[wrong][0])}: probabilities are finite and not negative")
    sums = matrix.sum(1)
    row = int((sums - 1).abs().argmax())
    if abs(float(sums[row]) - 1) > TOLERANCE:
        where = f" in row {row}" if len(matrix) > 1 else ""
        raise ValueError(
            f"{name} sums to {float(sums[row]):.12g}{where}: probabilities sum to one within {TOLERANCE:g}; normalise in "
            "float64 (float32 is not precise enough)"
        )
    return matrix


def _probabilities(name: str, logs: Tensor) -> Tensor:
    if logs.dim() != 2 or logs.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(logs.shape)}: a matrix of log-probabilities is needed")
    return check_rows(f"exp({name})", logs.detach().to(torch.float64).exp())
