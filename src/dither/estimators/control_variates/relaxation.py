"""Relaxed samples z of hard units, their law given the hard sample, and the runs of the closure that REBAR and RELAX make."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither.estimators.core.baselines.baseline import score_alone
from dither.estimators.core.call import Call, Layout
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.site import Site, over_logits
from dither.exact import CannotEnumerate, Oracle
from dither.functional import proper_logits, widen
from dither.nodes import Node

POINTS = 8  # Gauss-Legendre nodes per dimension, for oracles


def relaxed(node: Node, logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """The relaxed sample by the noise that draws the hard one: sigmoid(z / T) with z = a - logit(u), so that 1[z > 0] is
    1[u < sigmoid(a)]; for a categorical unit softmax(z / T) with z = a + gumbel(u). Shape and dtype of logits."""
    return node.soften(node.relaxation(logits, noise), temperature).to(logits.dtype)


def relaxed_given(node: Node, logits: Tensor, sample: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """The relaxed sample by z drawn given the hard one, by fresh uniforms v. Differentiable in the logits: z moves with them,
    because what it is drawn from, the law of z *given* the sample, moves too."""
    return node.soften(node.relaxation_given(logits, sample, noise), temperature)


class Relaxing(Estimator):
    """Base of REBAR and RELAX: for each group a hard run and, for each layer l, two relaxed ones.

    Layers before l are as in the hard run. Layer l gives the relaxed sample by z (the free run), or by z drawn given the hard
    one (the tied run); all later layers are relaxed by the uniforms of the hard run. Given the layers before, z of both
    runs has the same law and is independent of the later uniforms, which is all that unbiasedness needs.
    """

    requires = ("relaxation", "score")
    needs_sample_gradients = True
    any_cost = False
    runs_depend_on_layout = True
    runs_differ_by_kind = True
    composable = False
    unbiased = True
    former_order = ("temperature", "samples")

    def __init__(self, model: nn.Module, *, temperature: float = 0.5, samples: int = 1, vectorize: Vectorize = "auto") -> None:
        super().__init__(model, samples=samples, vectorize=vectorize)
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature is {temperature}: it must be positive and finite; 0.1 to 1 is usual")
        self.temperature = temperature

    def runs(self, layout: Layout) -> int:
        return self.samples * (1 if self.reading else 1 + 2 * len(layout))

    @property
    def groups(self) -> int:
        return self.samples

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        runs = self.runs(call.layout) // self.samples
        group, role = call.run // runs, call.run % runs
        layer = (role + 1) // 2 - 1  # that this run is for; -1 in the hard run
        node, logits, noise = call.node, call.logits, call.noise(group, groups=self.samples)
        if not node.discrete:
            return node.propagate(logits, noise), None
        sample, dtype = node.sample(logits, noise), widen(logits).dtype
        noise, fresh = noise.to(dtype), call.noise(group, stream=1, groups=self.samples).to(dtype)
        tied = (role > 0) & (role % 2 == 0) & (layer == call.index)
        soft = torch.where(
            tied,
            relaxed_given(node, logits, sample.to(dtype), fresh, self.temperature),
            relaxed(node, logits, noise, self.temperature),
        )
        taken = torch.where((role == 0) | (call.index < layer), sample.to(dtype), soft)
        output = call.output(taken).to(logits.dtype)
        return call.differentiable(output, output), torch.stack((sample.to(dtype), torch.where(tied, fresh, noise)), -1)

    def role(self, values: Tensor, number: int) -> Tensor:
        """One of each group's runs, (samples, ...), of a tensor with one entry for each run."""
        return values.unflatten(0, (self.samples, -1))[:, number]

    def own_runs(self, values: Tensor) -> Tensor:
        return self.role(values, 0)

    def plain(self, site: Site, costs: Tensor) -> Tensor | None:
        """Where Python looks at samples, and might take other branches for relaxed ones: the score function alone."""
        return score_alone(replace(site, sample=site.sample[..., 0]), costs) if self.reading else None

    def parts(self, site: Site, costs: Tensor) -> Relaxed:
        return Relaxed(self, site, costs)


class Relaxed:
    """What the runs of one site give, (samples, batch, ...) each, without a graph: the hard sample b, its cost f and score; the
    uniforms u, v; the cost of the tied run; and the gradient of the relaxed costs along z and along z given b."""

    def __init__(self, owner: Relaxing, site: Site, costs: Tensor) -> None:
        assert site.sample_gradient is not None
        free, tied = 2 * site.index + 1, 2 * site.index + 2
        self.site, self.node, self.temperature = site, site.node, owner.temperature
        self.logits = widen(owner.role(site.logits, 0).detach())
        self.sample, self.u = owner.role(site.sample, 0).unbind(-1)
        self.v = owner.role(site.sample, tied)[..., 1]
        self.score = site.per_run(self.node.score, self.logits, self.sample)
        f, c = (over_logits(widen(owner.role(costs, r)).sum(-1), self.logits) for r in (0, tied))
        gradients = [owner.role(site.sample_gradient, r).to(self.logits.dtype) for r in (free, tied)]
        along_free = torch.func.vjp(self.free, self.logits)[1]
        along_tied = torch.func.vjp(self.tied, self.logits)[1]
        self.reinforce = f * self.score
        self.control = along_free(gradients[0])[0] - along_tied(gradients[1])[0] - c * self.score

    def free(self, logits: Tensor) -> Tensor:
        return self.node.output(logits, relaxed(self.node, logits, self.u, self.temperature))

    def tied(self, logits: Tensor) -> Tensor:
        return self.node.output(logits, relaxed_given(self.node, logits, self.sample, self.v, self.temperature))


# --- for oracles ----------------------------------------------------------------------------------------------------------
def _partition(estimator: Relaxing, node: Node, logits: Tensor, stream: int) -> tuple[Tensor, Tensor] | None:
    """Gauss-Legendre nodes within each outcome's share of the noise. Two categories at most: with more, the ratios of
    their exponentials have corners at which few nodes are not enough."""
    if not node.discrete:
        return None
    if node.binary:
        return _binary(logits, stream, POINTS)
    if not node.one_hot or logits.shape[-1] > 2:
        raise CannotEnumerate(
            f"{type(estimator).__name__} by quadrature: binary units, or two categories at most, not {node.label} with logits "
            f"of shape {tuple(logits.shape)}; estimate by a long average, dither.audit(..., reference='average')"
        )
    return _two_categories(logits, stream, POINTS)


def _rule(points: int, like: Tensor) -> tuple[Any, Any]:
    t, w = (torch.as_tensor(v, dtype=like.dtype, device=like.device) / 2 for v in np.polynomial.legendre.leggauss(points))
    shape = (-1, *[1] * like.dim())
    return (t + 0.5).view(shape), w.view(shape)


def _binary(logits: Tensor, stream: int, points: int) -> tuple[Tensor, Tensor]:
    a = widen(logits)
    t, w = _rule(points, a)
    if stream:
        return t.expand(points, *a.shape), w.log().expand(points, *a.shape)
    s, log_w = torch.sigmoid(a), w.log()
    noise = torch.cat((s * t, s + (1 - s) * t))
    return noise, torch.cat((F.logsigmoid(a) + log_w, F.logsigmoid(-a) + log_w))


def _two_categories(logits: Tensor, stream: int, points: int) -> tuple[Tensor, Tensor]:
    """Two categories: only the ratio of their exponentials E matters to an outcome, soft or hard, and E_1 / (E_1 + E_2) is
    uniform. Given the winner k the exponentials of the fresh draw are those of the raw one, p_k E_k and E_j + p_j E_k."""
    p = torch.softmax(proper_logits(logits), -1)
    t, w = _rule(points, p[..., 0])
    log_w = w.log().expand(points, *p.shape[:-1])
    e = torch.stack((t, 1 - t), -1).expand(points, *p.shape)
    if stream:
        return -torch.expm1(-e), log_w
    raw, weight = [], []
    for k in (0, 1):
        best = e[..., k : k + 1]
        winner = torch.arange(2, dtype=torch.int64, device=p.device) == k
        raw.append(torch.where(winner, p * best, e + p * best))
        weight.append(log_w + p[..., k].log())
    return -torch.expm1(-torch.cat(raw)), torch.cat(weight)


Relaxing.oracle = Oracle(accuracy=1e-6, partition=_partition)
