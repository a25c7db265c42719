"""The measurement: gradients of each estimator, interleaved, against a reference."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Literal, cast

import torch
from torch import Tensor, nn

from dither import exact
from dither.auditing._report import AuditReport
from dither.auditing._rows import Build, Closure, Row
from dither.auditing._warm_up import untouched, warm_up
from dither.estimators import Estimator, ScoreFunction
from dither.estimators.core import built
from dither.nodes import ClosureError, as_module, cost_alone, named_nodes

Audited = Estimator | Build


def audit(
    model: nn.Module | Sequence[nn.Module],
    closure: Closure,
    estimators: Mapping[str, Audited] | Iterable[Audited],
    *,
    draws: int = 200,
    reference: Literal["auto", "exact", "average"] = "auto",
    warmup: int = 100,
    seed: int = 0,
    max_outcomes: int = exact.MAX_OUTCOMES,
    reference_draws: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> AuditReport:
    """How biased and how noisy each estimator's gradient is, on your model and your cost.

    estimators     by name, or in any iterable: estimators built on the model, or what builds them (a class, a partial).
    draws          gradients per estimator, interleaved so that a busy machine disturbs all alike.
    reference      "exact": enumeration of all outcomes (quadrature for continuous nodes). "average": a long average of
                   leave-one-out with 16 samples, reference_draws of them (default 4 x draws), with its standard error.
                   "auto": exact up to max_outcomes, else average; the report says which.
    warmup         calls of each estimator before the first draw, for its moving averages. Its own parameters
                   (RELAX, RODEO, NVIL) learn in them, by Adam.

    The bias is corrected for the noise of both means: |m - r|^2 - var / draws - var(r). So an unbiased estimator shows
    a bias of about zero; `bias_se` is the noise that was subtracted. The model's parameters, gradients and buffers, the
    estimators' states and torch's generator are left as they were. The same seed gives the same report, but for the
    times.

    Raises ValueError for draws < 2 or no estimators, exact.TooManyOutcomes for reference="exact" on a large model.

    >>> import torch, dither
    >>> net = nn.Sequential(nn.Linear(2, 3), dither.Bernoulli())
    >>> report = audit(net, lambda: net(torch.ones(1, 2)).sum(1) ** 2, [dither.ReinMax], draws=20)
    >>> report.reference
    'exact, enumeration of 8 outcomes per example'
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 2:
        raise ValueError(f"draws is {draws!r}: a variance needs an integer of at least 2; 200 or more tell estimators apart")
    if reference not in ("auto", "exact", "average"):
        raise ValueError(f"reference is {reference!r}: it must be 'auto', 'exact' or 'average'")
    model = as_module(model)
    built_on, closure = _named(model, estimators), cost_alone(closure)
    parameters = exact.trainable(model)
    if not parameters:
        raise ValueError("the model has no parameter that requires a gradient: there is nothing to audit")
    with untouched(model, built_on.values(), closure, seed):
        target, error, source = _reference(
            built_on.values(), closure, parameters, reference, max_outcomes, reference_draws or 4 * draws
        )
        for estimator in built_on.values():
            warm_up(estimator, closure, warmup)
        moments = {name: _Moments(parameters, target) for name in built_on}
        for draw in range(draws):
            for name, estimator in built_on.items():
                moments[name].add(estimator, closure)
            if progress:
                progress(draw + 1, draws)
        facts = {name: _facts(estimator) | {"reference": source} for name, estimator in built_on.items()}
        rows = [{"estimator": name, **row, **facts[name]} for name, m in moments.items() for row in m.rows(error)]
    return AuditReport(rows, source, draws)


def _facts(estimator: Estimator) -> Row:
    unbiased = estimator.unbiased and not estimator.multi_sample  # of this cost's expectation
    return {"evaluations": estimator.evaluations, "unbiased": unbiased}


def refuse_one(estimators: object) -> None:
    """One estimator is no list of them, nor is a string."""
    if isinstance(estimators, (str, type)) or callable(estimators):
        raise TypeError(
            f"estimators is {estimators!r}: give a list or a dict of them, audit(model, closure, {{'straight-through': "
            "dither.StraightThrough})"
        )


def _named(model: nn.Module, estimators: Mapping[str, Audited] | Iterable[Audited]) -> dict[str, Estimator]:
    named: dict[str, Estimator] = {}
    refuse_one(estimators)
    if isinstance(estimators, Mapping):
        pairs = list(cast("Mapping[str, Audited]", estimators).items())
    else:
        pairs = [("", build) for build in estimators]
    for name, build in pairs:
        estimator = built(build, model, f"estimators[{name!r}]" if name else "an estimator")
        label = name or type(estimator).__name__
        while label in named:
            label += "'"
        named[label] = estimator
    if not named:
        raise ValueError("estimators is empty: name at least one, audit(model, closure, {'straight-through': StraightThrough})")
    return named


def _gradient(estimator: Estimator, closure: Closure, parameters: Mapping[str, nn.Parameter]) -> Tensor:
    return exact.concatenate(exact.parameter_gradients(estimator(closure), parameters.values())).double()


def _reference(
    built: Collection[Estimator], closure: Closure, parameters: Mapping[str, nn.Parameter], kind: str, limit: int, draws: int
) -> tuple[Tensor, Tensor, str]:
    """(gradient, its squared standard error per coordinate, how it was computed)."""
    model = next(iter(built)).model
    if kind != "average":
        try:
            cost = _enumerated(model, closure, limit)
            grads = exact.parameter_gradients(cost.cost.sum() / len(cost.cost), parameters.values())
            target = exact.concatenate(grads).double().cpu()
            return target, torch.zeros_like(target), f"exact, enumeration of {cost.outcomes} outcomes per example"
        except (exact.CannotEnumerate, NotImplementedError):
            if kind == "exact":
                raise
    estimator = ScoreFunction(model, baseline="leave-one-out", samples=16)
    moments = _Moments(parameters, None)
    for _ in range(draws):
        moments.add(estimator, closure)
    error = moments.variance() / draws
    relative = 1.96 * float(error.sum().sqrt() / moments.mean.norm())
    return moments.mean, error, f"average of {draws} draws of leave-one-out with 16 samples, +-{relative:.2g} of its norm (95%)"


def _enumerated(model: nn.Module, closure: Closure, limit: int) -> exact.Expectation:
    """By one vmap, or outcome after outcome where vmap cannot take the closure."""
    nodes = named_nodes(model)
    try:
        return exact.expectation(nodes, closure, max_outcomes=limit)
    except ClosureError:
        raise
    except RuntimeError:
        pass
    return exact.expectation(nodes, closure, max_outcomes=limit, vectorize=False)


class _Moments:
    """Running mean and variance per coordinate (Welford), times, and cosines with the reference."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], target: Tensor | None) -> None:
        self.parameters, self.target = parameters, target
        self.slices: dict[str, slice] = {}
        start = 0
        for name, p in parameters.items():
            self.slices[name] = slice(start, start + p.numel())
            start += p.numel()
        self.slices["overall"] = slice(0, start)
        self.count = 0
        self.mean = torch.zeros(start, dtype=torch.float64, device="cpu")
        self.squares = torch.zeros(start, dtype=torch.float64, device="cpu")
        self.seconds: list[float] = []
        self.products: dict[str, list[tuple[float, float]]] = {name: [] for name in self.slices}  # (g . e, |g| |e|)

    def add(self, estimator: Estimator, closure: Closure) -> None:
        started = time.perf_counter()
        gradient = _gradient(estimator, closure, self.parameters)
        self.seconds.append(time.perf_counter() - started)
        gradient = gradient.cpu()
        self.count += 1
        change = gradient - self.mean
        self.mean += change / self.count
        self.squares += change * (gradient - self.mean)
        if self.target is not None:
            for name, part in self.slices.items():
                a, b = gradient[part], self.target[part]
                self.products[name].append((float(a @ b), float(a.norm() * b.norm())))

    def variance(self) -> Tensor:
        return self.squares / (self.count - 1)

    def rows(self, reference_error: Tensor) -> Iterator[Row]:
        assert self.target is not None
        milliseconds = 1e3 * median(self.seconds)
        variance, target = self.variance(), self.target
        for name in ("overall", *self.parameters):
            part = self.slices[name]
            v, m, r = float(variance[part].sum()), self.mean[part], target[part]
            noise = v / self.count + float(reference_error[part].sum())
            bias_squared = max(float((m - r).square().sum()) - noise, 0.0)
            signal = max(float(m.square().sum()) - v / self.count, 0.0)
            mse = bias_squared + v
            cosines = [product / norms for product, norms in self.products[name] if norms > 0]
            slopes = torch.tensor([product for product, _ in self.products[name]], dtype=torch.float64, device="cpu")
            square = max(float(r.square().sum()) - float(reference_error[part].sum()), 0.0)
            yield {
                "parameter": name,
                "bias": bias_squared**0.5,
                "bias_se": noise**0.5,
                "variance": v,
                "mse": mse,
                "cosine": sum(cosines) / len(cosines) if cosines else None,
                "snr": signal / v if v > 0 else None,
                "reference_norm": square**0.5,
                "mean_norm": signal**0.5,
                "slope": float(slopes.mean()) / square if square > 0 else 0.0,
                "slope_se": float(slopes.std()) / square / self.count**0.5 if square > 0 else 0.0,
                "milliseconds": milliseconds,
                "efficiency": 1 / (mse * milliseconds) if mse > 0 else None,
            }
