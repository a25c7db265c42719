"""Relaxed outcomes z of hard units, their law given the hard outcome, and the runs of the closure that REBAR and RELAX make."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither import functional
from dither.estimators._call import Call
from dither.estimators._control_variates import over_logits, probability
from dither.estimators._estimator import Estimator, Layout
from dither.estimators._site import Site
from dither.exact import CannotEnumerate
from dither.functional._bernoulli import widen
from dither.functional._categorical import _proper, _tempered
from dither.functional._gumbel import conditional_gumbel, conditional_logit
from dither.nodes import Bernoulli, Categorical, Node


def relaxed(node: Node, logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """The relaxed outcome by the noise that draws the hard one: sigmoid(z / T) with z = a - logit(u), so that 1[z > 0] is
    1[u < sigmoid(a)]; for a categorical unit softmax(z / T) with z = a + gumbel(u). Shape of logits."""
    kind = functional.gumbel_softmax if isinstance(node, Categorical) else functional.bernoulli_gumbel_softmax
    return kind(logits, noise, temperature)


def relaxed_given(node: Node, logits: Tensor, outcome: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """The relaxed outcome by z drawn given the hard one, by fresh uniforms v. Differentiable in the logits: z moves with them,
    because what it is drawn from, the law of z *given* the outcome, moves too.

    Binary (REBAR, App. C): softplus(softplus(a) - logit v) for b = 1, -softplus(softplus(-a) - logit v) for b = 0.
    Categorical (App. C), with exponential E = -log(1 - v): the winner's z is -log E_k, another's -log(E_j / p_j + E_k).
    """
    if isinstance(node, Categorical):
        return _tempered(conditional_gumbel(torch.log_softmax(_proper(logits), -1), outcome, noise), temperature)
    return torch.sigmoid(conditional_logit(widen(logits), outcome, noise) / temperature)


class Relaxing(Estimator):
    """Base of REBAR and RELAX: for each group a hard run and, for each layer l, two relaxed ones.

    Layers before l are as in the hard run. Layer l gives the relaxed outcome by z (the free run), or by z drawn given the hard
    outcome (the tied run); all later layers are relaxed by the uniforms of the hard run. Given the layers before, z of both
    runs has the same law and is independent of the later uniforms, which is all that unbiasedness needs.
    """

    supports = (Bernoulli, Categorical)
    differentiates = True
    any_cost = False
    planned = True
    composable = False
    unbiased = True
    accuracy = 1e-6
    points = 8  # Gauss-Legendre points per dimension, for oracles

    def __init__(self, model: nn.Module, temperature: float = 0.5, samples: int = 1, *, vectorize: bool = True) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize)
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature is {temperature}: it must be positive and finite; 0.1 to 1 is usual")
        self.temperature = temperature

    def runs(self, layout: Layout) -> int:
        return self.samples * (1 + 2 * len(layout))

    def answer(self, call: Call) -> tuple[Tensor, Tensor | None]:
        of_group = 1 + 2 * len(self._layout)
        group, role = call.run // of_group, call.run % of_group
        layer = (role + 1) // 2 - 1  # that this run is for; -1 in the hard run
        node, logits, noise = call.node, call.logits, call.noise(group, among=self.samples)
        if not node.discrete:
            return node.propagate(logits, noise), None
        outcome, wide = node.outcome(logits, noise), widen(logits)
        noise, fresh = noise.to(wide.dtype), call.noise(group, stream=1, among=self.samples).to(wide.dtype)
        tied = (role > 0) & (role % 2 == 0) & (layer == call.index)
        soft = torch.where(
            tied,
            relaxed_given(node, logits, outcome.to(wide.dtype), fresh, self.temperature),
            relaxed(node, logits, noise, self.temperature),
        )
        chosen = torch.where((role == 0) | (call.index < layer), outcome.to(wide.dtype), soft)
        output = node.emit(logits, chosen).to(logits.dtype)
        return self.through(output, output), torch.stack((outcome.to(wide.dtype), torch.where(tied, fresh, noise)), -1)

    def role(self, values: Tensor, number: int) -> Tensor:
        """One of each group's runs, (samples, ...), of a tensor with one entry for each run."""
        return values.unflatten(0, (self.samples, 1 + 2 * len(self._layout)))[:, number]

    def value(self, costs: Tensor) -> Tensor:
        return super().value(self.role(costs, 0))

    def parts(self, site: Site, costs: Tensor) -> Relaxed:
        return Relaxed(self, site, costs)

    # --- for oracles --------------------------------------------------------------------------------------------------
    def cells(self, node: Node, logits: Tensor, stream: int) -> tuple[Tensor, Tensor] | None:
        """Gauss-Legendre points within each outcome's share of the noise. Two categories at most: with more, the ratios of
        their exponentials have corners at which few points are not enough."""
        if isinstance(node, Categorical):
            if logits.shape[-1] > 2:
                raise CannotEnumerate(f"{type(self).__name__} by quadrature: two categories at most, not {logits.shape[-1]}")
            return _categorical_cells(logits, stream, self.points)
        return _binary_cells(logits, stream, self.points) if node.discrete else None


class Relaxed:
    """What the runs of one site found, (samples, batch, ...) each, without a gradient: the hard outcome b, its cost f and
    score; the uniforms u, v; the cost of the tied run; and the gradient of the relaxed costs along z and along z given b."""

    def __init__(self, owner: Relaxing, site: Site, costs: Tensor) -> None:
        assert site.slope is not None
        free, tied = 2 * site.index + 1, 2 * site.index + 2
        self.node, self.temperature = site.node, owner.temperature
        self.logits = widen(owner.role(site.logits, 0).detach())
        self.outcome, self.u = owner.role(site.outcome, 0).unbind(-1)
        self.v = owner.role(site.outcome, tied)[..., 1]
        self.score = self.outcome - probability(self.node, self.logits)
        f, c = (over_logits(widen(owner.role(costs, r)).sum(-1), self.logits) for r in (0, tied))
        slopes = [owner.role(site.slope, r).to(self.logits.dtype) for r in (free, tied)]
        along_free = torch.func.vjp(self.free, self.logits)[1]
        along_tied = torch.func.vjp(self.tied, self.logits)[1]
        self.reinforce = f * self.score
        self.control = along_free(slopes[0])[0] - along_tied(slopes[1])[0] - c * self.score

    def free(self, logits: Tensor) -> Tensor:
        return self.node.emit(logits, relaxed(self.node, logits, self.u, self.temperature))

    def tied(self, logits: Tensor) -> Tensor:
        return self.node.emit(logits, relaxed_given(self.node, logits, self.outcome, self.v, self.temperature))


def _rule(points: int, like: Tensor) -> tuple[Any, Any]:
    t, w = (torch.as_tensor(v, dtype=like.dtype) / 2 for v in np.polynomial.legendre.leggauss(points))
    shape = (-1, *[1] * like.dim())
    return (t + 0.5).view(shape), w.view(shape)


def _binary_cells(logits: Tensor, stream: int, points: int) -> tuple[Tensor, Tensor]:
    a = widen(logits)
    t, w = _rule(points, a)
    if stream:
        return t.expand(points, *a.shape), w.log().expand(points, *a.shape)
    s, log_w = torch.sigmoid(a), w.log()
    noise = torch.cat((s * t, s + (1 - s) * t))
    return noise, torch.cat((F.logsigmoid(a) + log_w, F.logsigmoid(-a) + log_w))


def _categorical_cells(logits: Tensor, stream: int, points: int) -> tuple[Tensor, Tensor]:
    """Two categories: only the ratio of their exponentials E matters to an outcome, soft or hard, and E_1 / (E_1 + E_2) is
    uniform. Given the winner k the exponentials of the fresh draw are those of the raw one, p_k E_k and E_j + p_j E_k."""
    p = torch.softmax(_proper(logits), -1)
    t, w = _rule(points, p[..., 0])
    log_w = w.log().expand(points, *p.shape[:-1])
    e = torch.stack((t, 1 - t), -1).expand(points, *p.shape)
    if stream:
        return -torch.expm1(-e), log_w
    raw, weight = [], []
    for k in (0, 1):
        best = e[..., k : k + 1]
        winner = torch.arange(2) == k
        raw.append(torch.where(winner, p * best, e + p * best))
        weight.append(log_w + p[..., k].log())
    return -torch.expm1(-torch.cat(raw)), torch.cat(weight)
