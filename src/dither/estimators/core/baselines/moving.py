"""Baselines that are moving averages over previous calls."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dither.estimators.core.baselines.baseline import Baseline
from dither.estimators.core.baselines.node_state import Entries
from dither.estimators.core.baselines.positions import fitted
from dither.estimators.core.baselines.windows import MovingAverages, Window
from dither.estimators.core.shapes import mean_over_examples
from dither.estimators.core.site import Site

_PARTS = ("numerator", "denominator")


class Moving(MovingAverages, Baseline):
    """A ratio of two moving averages per site, x and w: b = E[w L] / E[w] over previous calls.

    The averages stand still while gradients are accumulated: calls between two steps of the optimizer count together, as one
    call of the concatenated batch, and after the step (`windows`). That is seen by `.grad`: of losses that are summed before
    one backward pass, or whose gradients are taken by torch.autograd.grad, each call is a step of the averages.

    Positions need not be fixed. Where a dimension of the units has another size than before (a sequence of another length),
    its positions share one baseline from then on, and dimensions that keep their size keep a baseline for each entry. A
    node's call that was never made before (a longer walk) starts from the averages of the call before it. Both are
    out-of-sample: shapes are known before a sample is drawn, and the averages are those of previous calls.
    """

    def weight(self, site: Site, credit: Tensor) -> Tensor:
        raise NotImplementedError

    def value(self, site: Site, credit: Tensor) -> Tensor | float:
        averages = self.known(site)
        if averages is None:
            averages = self._of_the_call_before(site)
        if averages is None:
            return 0.0
        numerator, denominator = fitted(averages, self.units(site)).to(credit).unbind()
        known = denominator > 0  # a unit that has only ever been certain has no score to weigh costs by
        return torch.where(known, numerator / torch.where(known, denominator, 1), 0)

    def _of_the_call_before(self, site: Site) -> Tensor | None:
        """Averages of the node's nearest earlier call, without that call's latest window, which may have been opened in this
        very call of the estimator. Where no window is kept nothing tells what is of this call: None."""
        for name in _earlier_calls(site.name):
            window = self.window(name)
            if window is not None and window.before is not None:
                return window.before
        return None

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


def _earlier_calls(name: str) -> Iterator[str]:
    """ "walk:2" -> "walk:1", "walk": a node's calls in one run, from the nearest."""
    node, _, call = name.partition(":")
    for number in reversed(range(int(call or 0))):
        yield f"{node}:{number}" if number else node


class RunningMean(Moving):
    """The moving average of the cost over previous calls (per unit when credit is local)."""

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
