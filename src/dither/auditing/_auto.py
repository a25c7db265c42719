"""The estimator that audits its candidates while training goes on."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from dither.auditing._audit import audit
from dither.auditing._recommendation import STEPS, Recommendation, recommend
from dither.auditing._rows import Build, Closure
from dither.estimators import Blend, DisARM, Estimator, MuProp, ReinMax, ScoreFunction, StraightThrough
from dither.estimators.core import Named, built
from dither.estimators.core.building import refuse_spelling

CANDIDATES: dict[str, Build] = {
    "leave-one-out-2": partial(ScoreFunction, baseline="leave-one-out", samples=2),
    "disarm": DisARM,
    "muprop": MuProp,
    "control-variate": partial(Blend, kind="control-variate"),
    "straight-through": StraightThrough,
    "reinmax": ReinMax,
}


class Auto(Estimator):
    """The estimator that an audit recommends. Audits are repeated while training goes on.

    >>> import torch, dither
    >>> node = dither.Bernoulli()
    >>> node.logits = torch.nn.Parameter(torch.zeros(1, 3, dtype=torch.float64))
    >>> candidates = {"straight-through": dither.StraightThrough, "disarm": dither.DisARM}
    >>> auto = dither.Auto(node, candidates=candidates, by="evaluations", draws=5)
    >>> loss = auto(lambda: (node(node.logits).sum(1) / 2).round())  # straight-through has no derivative to pass on
    >>> auto.choice, auto.unbiased, auto.audits
    ('disarm', True, 1)

    Estimates   what the candidate in use estimates; `choice` names it, `recommendation` says why.
    Method      Before the first step every candidate that takes the model's nodes is audited on the first batch, and
                the one that descends farthest at equal time is used. The audit is repeated on the batch at hand whenever
                all audits together, the first included, would take less than `share` of the time since the first call.
                One without a gradient is never used while another has one, or is unbiased.
    candidates  name -> anything that builds an estimator on a model, or a list of these; default CANDIDATES, without
                those that do not take the model's nodes. A candidate learns only while it is in use.
    share       of the time that audits may take. draws: gradients per candidate and audit.
    by          "time": measured milliseconds, so that the choice may differ between machines and runs; "evaluations":
                of the closure, so that training is reproducible.
    unbiased_only  leave out biased candidates.
    Raises      ValueError when no candidate takes the model.
    Warns       UserWarning when no candidate has a gradient and none is unbiased: nothing would train.
    Reference   the audit's descent at equal time: see `dither.auditing.equal_time_worth`.
    """

    reference = "the audit"
    composable = False
    former_order = ("candidates",)

    records = False

    def __init__(
        self,
        model: nn.Module,
        *,
        candidates: Mapping[str, Build] | Iterable[Build] | None = None,
        share: float = 0.05,
        draws: int = 20,
        by: Literal["time", "evaluations"] = "time",
        unbiased_only: bool = False,
        steps: float = STEPS,
    ) -> None:
        super().__init__(model)
        if not 0 < share < 1:
            raise ValueError(f"share is {share}: the audits' share of the time must lie between 0 and 1, such as 0.05")
        if by not in ("time", "evaluations"):
            raise ValueError(f"by is {by!r}: it must be 'time' or 'evaluations'")
        named = _by_name(CANDIDATES if candidates is None else candidates)
        if not named:
            raise ValueError("candidates is empty: name at least one, Auto(model, candidates={'st': dither.StraightThrough})")
        self.candidates = Named(_built(self.model, named, unbiased_only))
        self.share, self.draws, self.by, self.steps = share, draws, by, steps
        self.choice = next(iter(self.candidates))
        self.recommendation: Recommendation | None = None
        self.audits = 0
        self.spent = self.total = 0.0  # seconds, or evaluations: of audits, and since the first call

    @classmethod
    def configurations(cls) -> dict[str, Build]:
        return {}  # which candidate it is depends on the measurement; each candidate is checked by itself

    @property
    def chosen(self) -> Estimator:
        return self.candidates[self.choice]

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        return self.chosen.unbiased

    @property
    def evaluations(self) -> int:
        return self.chosen.evaluations

    def estimate(self, closure: Closure) -> Tensor:
        self.calls += 1
        if self.learning and torch.is_grad_enabled() and self._due():
            self._audit(closure)
        start = time.perf_counter()
        loss = self.chosen.estimate(closure)
        self.total += time.perf_counter() - start if self.by == "time" else self.chosen.evaluations
        return loss

    def _due(self) -> bool:
        """Whether one more audit, at the mean price of those so far, keeps them within their share of all time."""
        if self.audits == 0:
            return True
        after = self.spent + self.spent / self.audits
        # Backward and the optimizer's step are not seen from here. Leaving them out only makes audits rarer.
        return after <= self.share * (self.total + after)

    def _audit(self, closure: Closure) -> None:
        start = time.perf_counter()
        seed = int(torch.randint(2**31, (), dtype=torch.int64, device="cpu"))
        report = audit(
            self.model, closure, dict(self.candidates.items()), draws=self.draws, reference="auto",
            warmup=self.draws if self.audits == 0 else 0, seed=seed, max_outcomes=1 << 10, reference_draws=2 * self.draws,
        )  # fmt: skip
        rows = [dict(row) for row in report.to_dicts()]
        if self.by == "evaluations":
            rows = [{**row, "milliseconds": float(row["evaluations"])} for row in rows]
        self.recommendation = recommend(rows, steps=self.steps, unit="ms" if self.by == "time" else "evaluations")
        self.choice = self.recommendation.estimator or self._without_advice(self.recommendation)
        self.audits += 1
        gradients = self.draws * (1 + (self.audits == 1))  # the first audit warms up
        evaluations = gradients * sum(child.evaluations for child in self.candidates.values()) + 2 * self.draws * 16
        self.spent += time.perf_counter() - start if self.by == "time" else evaluations

    def _without_advice(self, recommendation: Recommendation) -> str:
        """What to use while none has a gradient: an unbiased candidate, which has one at other weights; if there is none,
        nothing can train and the user is told."""
        unbiased = [name for name, candidate in self.candidates.items() if candidate.unbiased]
        if not unbiased and any(entry["error"] > 0 for entry in recommendation.ranking):
            warnings.warn(f"Auto has no candidate that can train this model: {recommendation.reason}", stacklevel=4)
        return self.choice if self.choice in unbiased or not unbiased else unbiased[0]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        with super().frozen(), self.chosen.frozen():
            yield

    # --- state: what the candidates have learned, which of them is in use, and the account of the audits ---------------
    def own_state(self) -> dict[str, Tensor]:
        return {
            "choice": torch.tensor(list(self.candidates).index(self.choice), dtype=torch.int64, device="cpu"),
            "account": torch.tensor([self.audits, self.spent, self.total], dtype=torch.float64, device="cpu"),
        }

    def load_own_state(self, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
        if {"choice", "account"} <= state.keys():
            names, choice = list(self.candidates), int(state["choice"])
            if not 0 <= choice < len(names):
                raise ValueError(f"the state's choice is candidate {choice}, but there are {len(names)}: {', '.join(names)}")
            self.choice = names[choice]
            audits, self.spent, self.total = state["account"].tolist()
            self.audits = int(audits)
        return [key for key in ("choice", "account") if key not in state], [k for k in state if k not in ("choice", "account")]

    def settings(self) -> dict[str, str]:
        return {**super().settings(), "candidates": repr(list(self.candidates)), "choice": repr(self.choice)}


def _by_name(builds: Mapping[str, Build] | Iterable[Build]) -> dict[str, Build]:
    """Each by its name, or by that of its class, with a stroke where it is taken."""
    if isinstance(builds, Mapping):
        return dict(cast("Mapping[str, Build]", builds))
    named: dict[str, Build] = {}
    for build in builds:
        name = getattr(build, "__name__", type(build).__name__)
        while name in named:
            name += "'"
        named[name] = build
    return named


def _built(model: nn.Module, candidates: Mapping[str, Build], unbiased_only: bool) -> dict[str, Estimator]:
    """The candidates that take the model's nodes."""
    estimators: dict[str, Estimator] = {}
    refused: dict[str, TypeError] = {}
    for name, build in candidates.items():
        refuse_spelling(build, f"candidates[{name!r}]")
        try:
            estimator = built(build, model, f"candidates[{name!r}]")
        except TypeError as error:
            refused[name] = error
            continue
        if estimator.unbiased or not unbiased_only:
            estimators[name] = estimator
    if not estimators:
        reasons = "; ".join(f"{name}: {error}" for name, error in refused.items()) or "none is unbiased"
        raise ValueError(f"no candidate can be used on this model: {reasons}. Give candidates that take its nodes")
    return estimators
