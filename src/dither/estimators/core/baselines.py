"""Baselines of the score function: what is subtracted from the cost. All are out-of-sample: none sees the cost that it is
subtracted from, so none biases the gradient (an in-sample mean would make a one-example gradient exactly 0)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from dither.estimators.core.shapes import mean_over_examples
from dither.estimators.core.site import Site

BaselineName = Literal["mean", "optimal", "leave-one-out"]


class Baseline(ABC):
    """credit (K, batch, *units or ones) -> what to subtract from it, broadcastable to it."""

    minimum_samples = 1

    @abstractmethod
    def value(self, site: Site, credit: Tensor) -> Tensor | float:
        """The baseline of each credit; computed before `update` has seen it."""

    def update(self, site: Site, credit: Tensor) -> None:
        """Learn from this call for the next ones."""
        return None

    def loss(self, site: Site, credit: Tensor, value: Tensor | float) -> Tensor | None:
        """A scalar to minimise by the user's optimizer, for baselines with parameters."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} has no state but was given {', '.join(sorted(state))}")


class Zero(Baseline):
    def value(self, site: Site, credit: Tensor) -> float:
        return 0.0


class LeaveOneOut(Baseline):
    """The mean cost of the same example's other K - 1 samples (Kool et al. 2019; Salimans & Knowles 2014)."""

    minimum_samples = 2

    def value(self, site: Site, credit: Tensor) -> Tensor:
        return (credit.sum(0, keepdim=True) - credit) / (len(credit) - 1)


class Moving(Baseline):
    """A ratio of two moving averages per site, x and w: b = E[w L] / E[w] over previous calls."""

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}: the moving average needs 0 <= decay < 1, such as 0.99")
        self.decay = decay
        self.averages: dict[str, Tensor] = {}  # (2, *units): of w L and of w

    def weight(self, site: Site, credit: Tensor) -> Tensor:
        raise NotImplementedError

    def value(self, site: Site, credit: Tensor) -> Tensor | float:
        if site.name not in self.averages:
            return 0.0
        numerator, denominator = self.averages[site.name].unbind()
        known = denominator > 0  # a unit that has only ever been certain has no score to weigh costs by
        return torch.where(known, numerator / torch.where(known, denominator, 1), 0)

    @torch.no_grad()
    def update(self, site: Site, credit: Tensor) -> None:
        weight = self.weight(site, credit)
        weighted = weight * credit
        self.learn(site.name, torch.stack([mean_over_examples(v) for v in (weighted, weight.expand_as(weighted))]))

    def learn(self, name: str, new: Tensor) -> None:
        """Move the averages of a node towards this call's, (2, *units): of w L and of w."""
        new = mean_over_ranks(new)
        old = self.averages.get(name)
        if old is not None and old.shape != new.shape:
            raise ValueError(
                f"node '{name}' has units of shape {tuple(new.shape[1:])}, but its baseline was kept for "
                f"{tuple(old.shape[1:])}: use baseline='leave-one-out' for units whose number changes"
            )
        self.averages[name] = torch.lerp(new, torch.zeros_like(new) if old is None else old.to(new), self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        return {
            f"{name}.{part}": tensor
            for name, pair in self.averages.items()
            for part, tensor in zip(("numerator", "denominator"), pair.unbind(), strict=True)
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        names = sorted({key.rpartition(".")[0] for key in state})
        expected = {f"{name}.{part}" for name in names for part in ("numerator", "denominator")}
        if set(state) != expected:
            raise ValueError(
                f"the state of a {type(self).__name__} baseline holds numerator and denominator per node, got {sorted(state)}"
            )
        self.averages = {n: torch.stack((state[f"{n}.numerator"], state[f"{n}.denominator"])) for n in names}


class RunningMean(Moving):
    """The moving average of the cost over previous calls (per unit when credit is local)."""

    def weight(self, site: Site, credit: Tensor) -> Tensor:
        return torch.ones_like(credit)

    @torch.no_grad()
    def update(self, site: Site, credit: Tensor) -> None:
        self.learn(site.name, torch.stack([mean_over_examples(v) for v in (credit, torch.ones_like(credit))]))


class Optimal(Moving):
    """Per logit, the constant of minimum variance, E[score^2 L] / E[score^2] (Bengio 2013, Corollary 1, Eq. 7), kept as two
    moving averages over previous calls. For a binary unit score = h - sigmoid(a); a category has a baseline of its own, for
    score = one-hot - p. Where units share logits, or `per_logit` is False: per unit, with the squared norm of the score."""

    def __init__(self, decay: float, per_logit: bool = True) -> None:
        super().__init__(decay)
        self.per_logit = per_logit

    def weight(self, site: Site, credit: Tensor) -> Tensor:
        own = site.score if self.per_logit else None
        return (site.score_weight if own is None else own.square()).to(credit.dtype)

    @torch.no_grad()
    def update(self, site: Site, credit: Tensor) -> None:
        weight = self.weight(site, credit)
        super().update(site, per_logit(credit, site) if weight.dim() > 2 + len(site.units) else credit)


def per_logit(credit: Tensor, site: Site) -> Tensor:
    """Credit per unit, or with ones for units, with one more dimension for categories."""
    return credit.unsqueeze(-1) if len(site.shape) > 2 + len(site.units) else credit


class Learned(Baseline):
    """A module of the node's logits, trained by squared error through the returned loss.

    It sees what the sample was drawn from and nothing of the sample itself, so the gradient stays unbiased. The module
    maps logits (batch, *units) to (batch,), (batch, 1) or one value per unit; a ModuleDict has one module per node, under
    the node's name with "." written as "_". Its parameters are in `estimator.parameters()`.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def _module(self, site: Site) -> Callable[[Tensor], Tensor]:
        if not isinstance(self.module, nn.ModuleDict):
            return self.module
        key = site.name.partition(":")[0].replace(".", "_")
        if key not in self.module:
            raise ValueError(f"baseline has no module for node '{key}': its keys are {', '.join(self.module)}")
        return self.module[key]

    def value(self, site: Site, credit: Tensor) -> Tensor:
        logits = site.logits.detach()
        value = self._module(site)(logits.flatten(0, 1)).unflatten(0, site.shape[:2])
        units = (*site.shape[:2], *site.units)
        if value.shape == units:
            return value
        if value.numel() == site.shape[0] * site.shape[1]:
            return site.over_units(value.reshape(site.shape[:2]))
        raise ValueError(
            f"the baseline module gave shape {tuple(value.shape[1:])} for node '{site.name}': one value per example, "
            f"(batch,), or one per unit, {tuple(units[1:])}, is needed"
        )

    def loss(self, site: Site, credit: Tensor, value: Tensor | float) -> Tensor | None:
        assert isinstance(value, Tensor)
        return mean_over_examples((value - credit).square()).mean()

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.module.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.module.load_state_dict(state)


def mean_over_ranks(values: Tensor) -> Tensor:
    """Every data-parallel rank keeps the same baseline, that of the whole batch."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return values
    distributed.all_reduce(values)
    return values / distributed.get_world_size()


def make_baseline(baseline: BaselineName | nn.Module | Baseline | None, decay: float, per_logit: bool = True) -> Baseline:
    if isinstance(baseline, Baseline):
        return baseline
    if isinstance(baseline, nn.Module):
        return Learned(baseline)
    if baseline is None:
        return Zero()
    if baseline == "mean":
        return RunningMean(decay)
    if baseline == "optimal":
        return Optimal(decay, per_logit)
    if baseline == "leave-one-out":
        return LeaveOneOut()
    raise ValueError(
        f"baseline is {baseline!r}: it must be None, 'mean', 'optimal', 'leave-one-out' or a torch.nn.Module of the logits"
    )
