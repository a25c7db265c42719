"""The estimator of minimum variance among those that multiply dL/dh by a matrix that depends on the sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dither.functional._bernoulli import attach, bernoulli_sample, widen, without_infinities
from dither.functional._categorical import categorical_sample, proper_logits


def mve(logits: Tensor, noise: Tensor, *, quadratic: float = math.inf) -> Tensor:
    """One-hot sample with the gradient of minimum variance ("MVE") that is exact for linear costs and, as far as `quadratic`
    asks, for quadratic ones.

    For the sample x the estimate is d L / d a_k := sum_i S_x[i, k] d L / d x_i. With p = softmax(a), J = diag p - p p', the
    matrices minimise sum_x p_x |S_x|^2 (the variance, for gradients of no preferred direction), subject to sum_x p_x S_x = J
    (linear costs), plus quadratic / 2 times the sum over i <= j of the squared errors p_j S_j[i] + p_i S_i[j] - [i = j] J_i on
    the cost x_i x_j. So quadratic -> 0 is straight-through, and at inf every quadratic cost is exact, as with `reinmax`, but
    with the minimum variance. One K x K system per unit; solved in float64.
    Reference: Hooper & Shekhovtsov 2026, known from its authors' code; the minimisation above is what that code solves.
    """
    return mve_given(logits, categorical_sample(logits, noise), quadratic=quadratic)


def mve_given(logits: Tensor, sample: Tensor, *, quadratic: float = math.inf) -> Tensor:
    """`mve` of a one-hot sample that was drawn already."""
    _require_weight(quadratic)
    wide = proper_logits(logits)
    matrix = _matrix(torch.softmax(wide.detach().double(), -1), sample.double(), 1 / quadratic).to(wide.dtype)
    a = without_infinities(wide)
    path = (matrix * (a - a.detach()).unsqueeze(-2)).sum(-1)
    return attach(sample, path.to(logits.dtype))


def bernoulli_mve(logits: Tensor, noise: Tensor, *, quadratic: float = math.inf) -> Tensor:
    """`mve` of a binary unit, whose cost depends on the second of two categories with logits (0, a). At quadratic = inf it is
    `bernoulli_reinmax` at temperature 1: of one bit there is but one estimate that is exact for quadratic costs."""
    return bernoulli_mve_given(logits, bernoulli_sample(logits, noise), quadratic=quadratic)


def bernoulli_mve_given(logits: Tensor, sample: Tensor, *, quadratic: float = math.inf) -> Tensor:
    """`bernoulli_mve` of a sample that was drawn already."""
    _require_weight(quadratic)
    a = widen(logits.detach()).double()
    p, x = (torch.stack((1 - one, one), -1) for one in (torch.sigmoid(a), sample.double()))
    derivative = _matrix(p, x, 1 / quadratic)[..., 1, 1]
    return attach(sample, derivative.to(logits.dtype) * without_infinities(logits))


def _require_weight(quadratic: float) -> None:
    if not quadratic > 0:
        raise ValueError(f"quadratic is {quadratic}: it must be positive; 1 to inf is usual")


def _matrix(p: Tensor, x: Tensor, e: float) -> Tensor:
    """S_x, (..., K, K), for probabilities p and one-hot samples x. e = 1 / quadratic.

    Stationarity gives S_x[i] = ((e + p_i) v_i - p_i v_x + [i = x] J_x) / (e + p_i + p_x), with v the multipliers of the
    linear constraint, which they must satisfy: A v = right. At e = 0 they are free up to a constant row: that of the most
    probable category is set to 0.
    """
    i, j = p.unsqueeze(-1), p.unsqueeze(-2)
    jacobian = torch.diag_embed(p) - i * j
    inverse = _reciprocal(e + i + j)
    ratio = (e + p) * _reciprocal(e + 2 * p)
    diagonal = (e + p) * (j * inverse).sum(-1) - p * p * _reciprocal(e + 2 * p)
    off = -i * j * inverse
    if e == 0:
        top = p.argmax(-1, keepdim=True) == torch.arange(p.shape[-1], device=p.device, dtype=torch.int64)
        diagonal = torch.where(top, 2 * diagonal, diagonal)
    diagonal = torch.where(diagonal == 0, 1, diagonal)
    system = torch.where(torch.eye(p.shape[-1], dtype=torch.bool, device=p.device), diagonal.unsqueeze(-1), off)
    v = torch.linalg.solve(system, ratio.unsqueeze(-1) * jacobian)
    v_x, j_x = ((x.unsqueeze(-1) * rows).sum(-2, keepdim=True) for rows in (v, jacobian))
    p_x = (x * p).sum(-1, keepdim=True)
    total = _reciprocal(e + p + p_x).unsqueeze(-1)
    return ((e + i) * v - i * v_x + x.unsqueeze(-1) * j_x) * total


def _reciprocal(positive: Tensor) -> Tensor:
    """1 / x, and 0 where x is 0: there it weighs nothing."""
    return torch.where(positive > 0, 1 / torch.where(positive > 0, positive, 1), positive)
