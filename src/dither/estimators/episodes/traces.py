"""Episodes of which only traces are kept: memory does not grow with their length."""

from __future__ import annotations

import torch
from torch import Tensor

from dither.estimators.core.site import Site
from dither.estimators.episodes.returns import Objective, Step
from dither.estimators.perturbation.perturbing import with_gradient


class Traces:
    """sum_t w_t G_t g_t = sum_s r_s z_s with z_s = discount z_(s-1) + g_s: what is ahead of a decision is behind a reward.

    The same exchange gives the averages of w G and w that the moving baselines are made of.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.parameters: list[torch.nn.Parameter] = []
        self.trace: list[Tensor] = []  # (envs, *parameter)
        self.total: list[Tensor] = []
        self.averages: dict[str, tuple[Tensor, Tensor, Tensor, float]] = {}  # trace, sum of w G, sum of w, rows
        self.value: Tensor | float = 0.0

    def add(self, step: Step, from_start: Tensor) -> None:
        self.value = self.value + from_start * step.reward
        self.parameters = self.parameters or [p for p in self.objective.model.parameters() if p.requires_grad]
        sites = [Site(d.name, d.node, d.logits.unsqueeze(0), d.sample.unsqueeze(0)) for d in step.decisions]
        per_env = torch.stack([site.log_prob.view(len(step.reward), -1).sum(1) for site in sites]).sum(0) * step.running
        scores = gradient_per_env(per_env, self.parameters)
        start = self.objective.from_start
        self.trace = self.trace or [torch.zeros_like(s) for s in scores]
        self.total = self.total or [torch.zeros_like(s[0]) for s in scores]
        for trace, score in zip(self.trace, scores, strict=True):
            trace.mul_(1.0 if start else self.objective.discount).add_(score)
        self._credit(step.reward * step.weight)
        if self.objective.moving is not None:
            self._subtract_baseline(sites, step)
        for trace in self.trace:
            trace[step.done] = 0

    def _credit(self, reward: Tensor) -> None:
        for total, trace in zip(self.total, self.trace, strict=True):
            total.sub_(torch.tensordot(reward.to(trace.dtype), trace, 1))

    def _subtract_baseline(self, sites: list[Site], step: Step) -> None:
        baseline, weighed = self.objective.moving, step.running * step.weight
        assert baseline is not None
        surrogate = torch.zeros((), dtype=weighed.dtype, device=weighed.device)
        for site in sites:
            nothing = site.over_units(torch.zeros_like(step.reward).unsqueeze(0))  # moving baselines look at their past only
            part = baseline.value(site, nothing) * site.log_prob * site.over_units(weighed.unsqueeze(0))
            surrogate = surrogate + part.sum()
            self._average(site, baseline.weight(site, nothing)[0], step)
        for total, part in zip(self.total, gradients(surrogate, self.parameters), strict=True):
            total.add_(part)

    def _average(self, site: Site, weight: Tensor, step: Step) -> None:
        def per_env(values: Tensor) -> Tensor:
            return values.view(-1, *[1] * (weight.dim() - 1))

        weight = weight * per_env(step.running)
        none = torch.zeros_like(weight)
        trace, numerator, denominator, rows = self.averages.get(site.name, (none, none.sum(0), none.sum(0), 0.0))
        trace = trace * self.objective.discount + weight
        numerator = numerator + (trace * per_env(step.reward)).sum(0)
        trace = torch.where(per_env(step.done), 0.0, trace)
        self.averages[site.name] = trace, numerator, denominator + weight.sum(0), rows + float(step.running.sum())

    def loss(self, beyond: Tensor, from_start: Tensor) -> Tensor:
        discount, envs = self.objective.discount, len(beyond)
        self._credit(beyond * (from_start if self.objective.from_start else discount))
        for name, (trace, numerator, denominator, rows) in self.averages.items():
            assert self.objective.moving is not None
            numerator = numerator + discount * (trace * beyond.view(-1, *[1] * (trace.dim() - 1))).sum(0)
            self.objective.moving.learn(name, torch.stack((numerator, denominator)) / max(rows, 1))
        pairs = zip(self.parameters, self.total, strict=True)
        value = -(self.value + from_start * beyond).mean()
        return with_gradient(value, [(p, lambda total=total: total / envs) for p, total in pairs])


def gradients(scalar: Tensor, parameters: list[Tensor] | list[torch.nn.Parameter]) -> tuple[Tensor, ...]:
    if not scalar.requires_grad:
        return tuple(torch.zeros_like(p) for p in parameters)
    return torch.autograd.grad(scalar, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)


def gradient_per_env(scores: Tensor, parameters: list[torch.nn.Parameter]) -> list[Tensor]:
    """d scores[e] / d parameter for every environment e, (envs, *parameter)."""
    if not scores.requires_grad or not parameters:  # nothing that is trained lies before the nodes that are credited
        return [p.new_zeros((len(scores), *p.shape)) for p in parameters]
    every = torch.eye(len(scores), dtype=scores.dtype, device=scores.device)
    per_env = torch.autograd.grad(scores, parameters, every, is_grads_batched=True, retain_graph=True, allow_unused=True)
    return [p.new_zeros((len(scores), *p.shape)) if g is None else g for p, g in zip(parameters, per_env, strict=True)]
