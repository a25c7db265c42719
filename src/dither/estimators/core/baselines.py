"""Baselines of the score function: what is subtracted from the cost. All are out-of-sample: none sees the cost that it is
subtracted from, so none biases the gradient (an in-sample mean would make a one-example gradient exactly 0)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from dither.estimators.core.node_state import Entries, NodeState
from dither.estimators.core.parts import Part
from dither.estimators.core.ranks import broadcast_module, call_averaged, world
from dither.estimators.core.shapes import divided, mean_over_examples
from dither.estimators.core.site import Site
from dither.estimators.core.windows import MovingAverages, Window
from dither.functional import score_function_surrogate

BaselineName = Literal["mean", "optimal", "leave-one-out"]
_PARTS = ("numerator", "denominator")


class Baseline(nn.Module, ABC):
    """credit (K, batch, *units or ones) -> what to subtract from it, broadcastable to it.

    A module: the parameters of one that learns are listed, moved and saved with the estimator's. What it learns besides is a
    `NodeState`, itself or a part of it.
    """

    minimum_samples = 1

    @abstractmethod
    def value(self, site: Site, credit: Tensor) -> Tensor | float:
        """The baseline of each credit; computed before `update` has seen it."""

    def update(self, site: Site, credit: Tensor, value: Tensor | float) -> None:
        """Learn from this call, in which it was `value`, for the next ones."""
        return None

    def loss(self, site: Site, credit: Tensor, value: Tensor | float) -> Tensor | None:
        """A scalar to minimise by the user's optimizer, for baselines with parameters."""
        return None


class Zero(Baseline):
    def value(self, site: Site, credit: Tensor) -> float:
        return 0.0


class LeaveOneOut(Baseline):
    """The mean cost of the same example's other K - 1 samples (Kool et al. 2019; Salimans & Knowles 2014)."""

    minimum_samples = 2

    def value(self, site: Site, credit: Tensor) -> Tensor:
        return divided(credit.sum(0, keepdim=True) - credit, credit.shape[0] - 1)


class Moving(MovingAverages, Baseline):
    """A ratio of two moving averages per site, x and w: b = E[w L] / E[w] over previous calls.

    The averages stand still while gradients are accumulated: calls between two steps of the optimizer count together, as one
    call of the concatenated batch, and after the step (`windows`). That is seen by `.grad`: of losses that are summed before
    one backward pass, or whose gradients are taken by torch.autograd.grad, each call is a step of the averages.
    """

    shared = False  # whether units that share their credit share one baseline

    def weight(self, site: Site, credit: Tensor) -> Tensor:
        raise NotImplementedError

    def value(self, site: Site, credit: Tensor) -> Tensor | float:
        averages = self.known(site)
        if averages is None:
            return 0.0
        require_units(site.name, self.units(site), averages, self.shared)
        numerator, denominator = averages.to(credit).unbind()
        known = denominator > 0  # a unit that has only ever been certain has no score to weigh costs by
        return torch.where(known, numerator / torch.where(known, denominator, 1), 0)

    def units(self, site: Site) -> tuple[int, ...]:
        """The shape of a site's baseline, unless its units share one."""
        return site.units

    @torch.no_grad()
    def update(self, site: Site, credit: Tensor, value: Tensor | float = 0.0) -> None:
        weight = site.where_present(self.weight(site, credit))
        weighted = weight * credit
        new = torch.stack([mean_over_examples(v) for v in (weighted, weight.expand_as(weighted))])
        self.move(site.name, new, credit.shape[1], site)

    def learn(self, name: str, new: Tensor) -> None:
        """Move the averages of a node towards new ones, (2, *units): of w L and of w."""
        self.move(name, new)

    def _check(self, name: str, new: Tensor, window: Window) -> None:
        for old in (window.before, window.mean):
            if old is not None:
                require_units(name, tuple(new.shape[1:]), old)

    # --- state --------------------------------------------------------------------------------------------------------
    def entries(self) -> Entries:
        """Per node: numerator and denominator; of a window that the optimizer has not closed also its own, how many
        examples they are of, and what was before it."""
        entries = {name: _named("", pair) for name, pair in self.averages.items()}
        for name, window in self.pending().items():
            rows = torch.tensor(window.rows, dtype=torch.float64, device="cpu")
            entries[name] |= _named("window_", window.mean) | {"window_rows": rows}
            entries[name] |= {} if window.before is None else _named("before_", window.before)
        return entries

    def nothing(self) -> dict[str, Tensor]:
        return _named("", torch.zeros(2, dtype=torch.float32, device="cpu"))

    def restore(self, entries: Entries) -> None:
        entries = {name: parts for name, parts in entries.items() if not _is_nothing(parts)}
        for name, parts in entries.items():
            pending = {"window_rows"} & parts.keys()
            prefixes = ["", *["window_" for _ in pending], *["before_" for _ in pending if "before_numerator" in parts]]
            if parts.keys() != {prefix + part for prefix in prefixes for part in _PARTS} | pending:
                raise ValueError(
                    f"the state of a {type(self).__name__} baseline holds numerator and denominator per node, got "
                    f"{', '.join(sorted(parts))} of node '{name}'"
                )

        def pairs(prefix: str) -> dict[str, Tensor]:
            first, second = (prefix + part for part in _PARTS)
            return {n: torch.stack((parts[first], parts[second])) for n, parts in entries.items() if first in parts}

        means, before = pairs("window_"), pairs("before_")
        windows = {n: Window(before.get(n), mean, float(entries[n]["window_rows"])) for n, mean in means.items()}
        self.load(pairs(""), windows)


def _named(prefix: str, pair: Tensor) -> dict[str, Tensor]:
    return {prefix + part: tensor for part, tensor in zip(_PARTS, pair.unbind(), strict=True)}


def _is_nothing(parts: dict[str, Tensor]) -> bool:
    """Whether it is what `nothing` says: weights of no sum, of a node without a shape."""
    return parts.keys() == set(_PARTS) and all(tensor.dim() == 0 and not tensor for tensor in parts.values())


def require_units(name: str, units: tuple[int, ...], averages: Tensor, shared: bool = False) -> None:
    """Raise unless averages, (2, *units), are of these units, or shared by them: a unit's say nothing of another unit."""
    former = tuple(averages.shape[1:])
    if former != units and not (shared and former == (1,) * len(units)):
        raise ValueError(
            f"node '{name}' has units of shape {units}, but its baseline was kept for "
            f"{former}: use baseline='leave-one-out' for units whose number changes, or 'mean' with costs "
            "of shape (batch,), which has one baseline for all units"
        )


class RunningMean(Moving):
    """The moving average of the cost over previous calls (per unit when credit is local)."""

    shared = True

    def weight(self, site: Site, credit: Tensor) -> Tensor:
        return torch.ones_like(credit)

    @torch.no_grad()
    def update(self, site: Site, credit: Tensor, value: Tensor | float = 0.0) -> None:
        new = torch.stack([mean_over_examples(site.where_present(v)) for v in (credit, torch.ones_like(credit))])
        self.move(site.name, new, credit.shape[1], site)


class Optimal(Moving):
    """Per logit, the constant of minimum variance, E[score^2 L] / E[score^2] (Bengio 2013, Corollary 1, Eq. 7), kept as two
    moving averages over previous calls. For a binary unit score = h - sigmoid(a); a category has a baseline of its own, for
    score = one-hot - p. Where units share logits, or `per_logit` is False: per unit, with the squared norm of the score."""

    def __init__(self, decay: float, per_logit: bool = True) -> None:
        super().__init__(decay)
        self.per_logit = per_logit

    def units(self, site: Site) -> tuple[int, ...]:
        return site.shape[2:] if self.per_logit and site.node.has("score") else site.units

    def weight(self, site: Site, credit: Tensor) -> Tensor:
        own = site.score if self.per_logit else None
        return (site.score_weight if own is None else own.square()).to(credit.dtype)

    @torch.no_grad()
    def update(self, site: Site, credit: Tensor, value: Tensor | float = 0.0) -> None:
        weight = self.weight(site, credit)
        super().update(site, per_logit(credit, site) if weight.dim() > 2 + len(site.units) else credit)


def per_logit(credit: Tensor, site: Site) -> Tensor:
    """Credit per unit, or with ones for units, with one more dimension for categories."""
    return credit.unsqueeze(-1) if len(site.shape) > 2 + len(site.units) else credit


class Learned(Part, Baseline):
    """A module of the node's logits, trained by squared error through the returned loss.

    It sees what the sample was drawn from and nothing of the sample itself, so the gradient stays unbiased. The module
    maps logits (batch, *units) to (batch,), (batch, 1) or one value per unit; a ModuleDict has one module per node, under
    the node's name with "." written as "_". Its parameters are in `estimator.parameters()`.

    Where torch.distributed is initialised, all ranks start from rank 0's parameters and average their gradients over the
    ranks in the backward pass, as DistributedDataParallel does for the model: do not wrap the module in it.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._shared: set[str] = set()  # the modules, by key, whose parameters the ranks have in common
        for key, part in module.items() if isinstance(module, nn.ModuleDict) else (("", module),):
            self._share(key, part)

    def _share(self, key: str, module: nn.Module) -> None:
        """Rank 0's parameters on all ranks, once; those of a lazy module when they have their shapes."""
        if world() > 1 and key not in self._shared and not _is_lazy(module):
            broadcast_module(module)
            self._shared.add(key)

    def _module(self, site: Site) -> tuple[str, nn.Module]:
        if not isinstance(self.module, nn.ModuleDict):
            return "", self.module
        key = site.name.partition(":")[0].replace(".", "_")
        if key not in self.module:
            raise ValueError(f"baseline has no module for node '{key}': its keys are {', '.join(self.module)}")
        return key, self.module[key]

    def value(self, site: Site, credit: Tensor) -> Tensor:
        logits, (key, module) = site.logits.detach().flatten(0, 1), self._module(site)
        if world() > 1 and _is_lazy(module):
            module(logits)
        self._share(key, module)
        value = self._called(site, module, logits).unflatten(0, site.shape[:2])
        units = (*site.shape[:2], *site.units)
        if value.shape == units:
            return value
        if value.numel() == site.shape[0] * site.shape[1]:
            return site.over_units(value.reshape(site.shape[:2]))
        raise ValueError(
            f"the baseline module gave shape {tuple(value.shape[1:])} for node '{site.name}': one value per example, "
            f"(batch,), or one per unit, {tuple(units[1:])}, is needed"
        )

    def _called(self, site: Site, module: nn.Module, logits: Tensor) -> Tensor:
        try:
            return call_averaged(module, logits)
        except RuntimeError as error:
            error.add_note(
                f"dither: the baseline module raised for node '{site.name}' with logits of shape {tuple(logits.shape)}; where "
                "the number of units changes from call to call, give a module that takes any (a mean over units first, a "
                "recurrent net), or use baseline='leave-one-out'"
            )
            raise

    def loss(self, site: Site, credit: Tensor, value: Tensor | float) -> Tensor | None:
        assert isinstance(value, Tensor)
        return mean_over_examples(site.where_present((value - credit).square())).mean()


def _is_lazy(module: nn.Module) -> bool:
    return any(isinstance(p, nn.UninitializedParameter) for p in module.parameters())


def score_alone(site: Site, costs: Tensor) -> Tensor:
    """A scalar whose gradient is (L - b) d log P(sample), the mean over runs and examples; b the mean cost of the other runs,
    or 0. For estimators whose control variate takes runs of another kind than the net's own."""
    credit = site.over_units(costs.sum(-1))
    baseline = LeaveOneOut().value(site, credit) if len(credit) > 1 else 0.0
    return score_function_surrogate(credit, site.log_prob, baseline).sum() / max(credit.shape[:2].numel(), 1)


def make_baseline(
    baseline: BaselineName | nn.Module | Baseline | None, decay: float, per_logit: bool = True, nodes: tuple[str, ...] = ()
) -> Baseline:
    """The baseline that an argument names. nodes: those that it is for, which its state is to name."""
    learner = _made(baseline, decay, per_logit)
    for part in learner.modules():
        if isinstance(part, NodeState):
            part.nodes = nodes
    return learner


def _made(baseline: BaselineName | nn.Module | Baseline | None, decay: float, per_logit: bool) -> Baseline:
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
