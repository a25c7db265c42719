"""Episodes whose steps are all kept until the loss: returns-to-go, and the baselines that need them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dither.estimators.core.baselines.baseline import Baseline
from dither.estimators.core.baselines.moving import Moving
from dither.estimators.core.site import Site
from dither.functional import attach, score_function_surrogate
from dither.nodes import Node


@dataclass
class Decision:
    """One call of one discrete node in one time step. logits, sample: (envs, *units[, categories])."""

    name: str
    node: Node
    logits: Tensor
    sample: Tensor


@dataclass
class Step:
    """One time step of all environments. reward: (envs,), with what stands for the rest of an episode that is cut off in this
    step, 0 for those that take no part; running: which take part; done: which end with this step; weight: of this step's
    decisions in the gradient; check: raises if logits were changed in place since."""

    decisions: list[Decision]
    reward: Tensor
    running: Tensor
    done: Tensor
    weight: Tensor
    check: Callable[[], None]


@dataclass(frozen=True)
class Objective:
    """What a record of episodes estimates the gradient of, and by which baseline. from_start: discount from the episode's
    start, not from the decision."""

    model: nn.Module
    discount: float
    from_start: bool
    baseline: Baseline
    leave_one_out: bool

    @property
    def moving(self) -> Moving | None:
        return self.baseline if isinstance(self.baseline, Moving) else None


class Stored:
    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.steps: list[Step] = []
        self.value: Tensor | float = 0.0

    def add(self, step: Step, from_start: Tensor) -> None:
        self.steps.append(step)
        self.value = self.value + from_start * step.reward

    def loss(self, beyond: Tensor, from_start: Tensor) -> Tensor:
        for step in self.steps:
            step.check()
        returns = returns_to_go(self.steps, beyond, self.objective.discount)
        running = torch.stack([step.running for step in self.steps])
        others = mean_of_others(returns, running) if self.objective.leave_one_out else None
        weight, envs = torch.stack([step.weight for step in self.steps]), len(beyond)
        loss = -(self.value + from_start * beyond).mean()
        for name, at in self._decisions().items():
            took_part = running[at].flatten()
            site = self._site(name, at, took_part)

            def rows(values: Tensor, at=at, took_part=took_part, site=site) -> Tensor:
                return site.over_units(values[at].flatten()[took_part].unsqueeze(0))

            credit = rows(returns)
            baseline = self.objective.baseline.value(site, credit) if others is None else rows(others)
            loss = attach(loss, -(score_function_surrogate(credit, site.log_prob, baseline) * rows(weight)).sum() / envs)
            fit = self.objective.baseline.loss(site, credit, baseline)
            loss = loss if fit is None else attach(loss, fit)
            self.objective.baseline.update(site, credit, baseline)
        return loss

    def _decisions(self) -> dict[str, list[int]]:
        """name -> the steps in which a node of that name was called."""
        steps: dict[str, list[int]] = {}
        for t, step in enumerate(self.steps):
            for decision in step.decisions:
                steps.setdefault(decision.name, []).append(t)
        return steps

    def _site(self, name: str, at: list[int], rows: Tensor) -> Site:
        """All decisions of that name as one site of one run, whose batch is those (step, environment) pairs."""
        own = [next(d for d in self.steps[t].decisions if d.name == name) for t in at]
        logits, sample = (torch.cat([getattr(d, part) for d in own])[rows] for part in ("logits", "sample"))
        return Site(name, own[0].node, logits.unsqueeze(0), sample.unsqueeze(0))


def returns_to_go(steps: list[Step], beyond: Tensor, discount: float) -> Tensor:
    """(steps, envs): r_t + discount r_(t + 1) + ... to the end of the episode."""
    returns, following = [], beyond
    for step in reversed(steps):
        following = step.reward + discount * torch.where(step.done, 0.0, following)
        returns.append(following)
    return torch.stack(returns[::-1])


def mean_of_others(returns: Tensor, running: Tensor) -> Tensor:
    """The mean return of the other environments at the same step, (steps, envs): of those still running then; where none is,
    of all their steps."""
    if returns.shape[1] < 2:
        raise ValueError("baseline='leave-one-out' with one environment: use two or more, or baseline='optimal'")
    own = returns * running
    count = running.to(returns.dtype)
    same_step = own.sum(1, keepdim=True) - own, count.sum(1, keepdim=True) - count
    all_steps = own.sum() - own.sum(0), count.sum() - count.sum(0)
    return torch.where(same_step[1] > 0, same_step[0] / same_step[1].clamp(min=1), all_steps[0] / all_steps[1])
