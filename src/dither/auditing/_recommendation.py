"""Which estimator here? The one whose direction is worth most when all get the same time, and the reason in figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from statistics import median

from dither.auditing._rows import Row

STEPS = 10  # gradients that an optimizer averages: momentum .9, or Adam's first moment
ROUNDING = 1e-5  # of an enumerated gradient in float32


@dataclass(frozen=True)
class Recommendation:
    """What an audit recommends.

    estimator   its name in the audit; None where no audited estimator has a gradient to follow
    reason      why, in figures
    ranking     rows {"estimator", "error", "worth"}, best first: `equal_time_error` and `equal_time_worth`
    """

    estimator: str | None
    reason: str
    ranking: Sequence[Row]

    def __str__(self) -> str:
        return f"{self.estimator or 'none'}: {self.reason}"


def bias_squared(row: Row) -> float:
    """The bias to count with: 0 for an estimator that is unbiased by proof, of which an audit measures only noise.

    For another it is at least the noise of the measurement (`bias_se`), under which a bias may hide.
    """
    return 0.0 if row.get("unbiased") else max(row["bias"], row.get("bias_se") or 0.0) ** 2


def has_gradient(row: Row) -> bool:
    """Whether some draw was not zero, and none undefined: what returns zero in every draw trains nothing."""
    return row["variance"] > 0 or row["mean_norm"] > 0


def untrained(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Per estimator the parameters that it never trains: each of its draws is zero there, and the reference is not.

    One that is unbiased by proof has none, whatever a few draws show. A reference below ROUNDING of the whole one is zero.
    """
    whole = {row["estimator"]: row["reference_norm"] for row in rows if row["parameter"] == "overall"}
    names: dict[str, list[str]] = {name: [] for name in whole}
    for row in rows:
        name, parameter = row["estimator"], row["parameter"]
        if parameter == "overall" or row.get("unbiased") or has_gradient(row):
            continue
        if row["reference_norm"] + (row.get("bias_se") or 0.0) > ROUNDING * whole[name]:
            names[name].append(parameter)
    return names


def equal_time_error(row: Row, milliseconds: float, *, steps: float = 1.0) -> float:
    """Root mean squared error as a share of the gradient's norm, |mean of the draws - gradient| / |gradient|.

    Of the mean of `steps` gradients, each of as many draws as fit in `milliseconds`: averaging divides the variance and
    leaves the bias. Infinite where the gradient is zero and the estimate is not.
    """
    mse, norm = bias_squared(row) + _variance(row, milliseconds, steps), row["reference_norm"]
    return mse**0.5 / norm if norm > 0 else inf if mse > 0 else 0.0


def equal_time_worth(row: Row, milliseconds: float, *, steps: float = 1.0) -> float:
    """How far a step along the estimate descends, as a share of a step along the gradient, each with its best learning rate.

    (g . m)^2 / (|g|^2 (|m|^2 + v)) for gradient g, mean estimate m and variance v of the mean of the draws that fit: on a
    cost of slope g and curvature L the best step along an estimate e gains E[g . e]^2 / (2 L E|e|^2). It is 1 less the
    squared error that is left when the learning rate has taken over the estimate's scale, so it has no units, and is 0 for an
    estimate of zero, whose error (100 %) looks better than that of many an honest but noisy one.
    """
    square = row["reference_norm"] ** 2
    along, across = (1.0, 0.0) if row.get("unbiased") else _mean(row, square)
    total = square * along + across + _variance(row, milliseconds, steps)
    return square * along / total if total > 0 else 0.0


def _mean(row: Row, square: float) -> tuple[float, float]:
    """The mean estimate of a biased estimator: (its squared slope along the gradient, its squared part across it).

    What cannot be told from noise counts against it: a slope less its standard error, in squares; across at least the noise.
    """
    along = max(max(row["slope"], 0.0) ** 2 - (row.get("slope_se") or 0.0) ** 2, 0.0)
    noise = (row.get("bias_se") or 0.0) ** 2
    return along, max(row["mean_norm"] ** 2 - square * along, noise)


def _variance(row: Row, milliseconds: float, steps: float) -> float:
    return row["variance"] * row["milliseconds"] / (milliseconds * steps)


def recommend(rows: Sequence[Row], *, steps: float = STEPS, unit: str = "ms") -> Recommendation:
    """From an audit's rows, of which those of parameters may be left out; `unit` is that of their "milliseconds".

    All get the same time, the median of their draws': the faster ones average more draws, the slower ones fewer. An
    optimizer averages `steps` such gradients. The one of the largest `equal_time_worth` wins; among equals, such as where
    the gradient is too small to be measured, the one of least error. One without a gradient is never recommended, and one
    that leaves some parameters untrained only where all do.
    """
    overall = [row for row in rows if row["parameter"] == "overall"]
    if not overall:
        raise ValueError("the audit has no overall row: there is nothing to choose from")
    time, without = median(row["milliseconds"] for row in overall), untrained(rows)
    worth = {row["estimator"]: equal_time_worth(row, time, steps=steps) for row in overall}
    error = {row["estimator"]: equal_time_error(row, time, steps=steps) for row in overall}

    def order(row: Row) -> tuple[bool, bool, float, bool, float]:
        name, mse = row["estimator"], bias_squared(row) + _variance(row, time, steps)
        return not has_gradient(row), bool(without[name]), -worth[name], not row.get("unbiased"), mse

    ranked = sorted(overall, key=order)
    ranking = [{"estimator": name, "error": error[name], "worth": worth[name]} for name in (row["estimator"] for row in ranked)]
    if not has_gradient(ranked[0]):
        return Recommendation(None, _why_none(ranked), ranking)
    reason = _reason(ranked, ranking, without, f"{time:.3g} {unit}", steps)
    return Recommendation(ranked[0]["estimator"], reason, ranking)


def _why_none(rows: list[Row]) -> str:
    if all(row["reference_norm"] == 0 for row in rows):
        return "the gradient is zero here, and so is every estimate: there is nothing to follow"
    return f"no audited estimator has a gradient here: the cost has no slope along what they follow; {REMEDY}"


REMEDY = "audit an unbiased one, such as ScoreFunction(net, baseline='leave-one-out', samples=4)"


def _reason(ranked: list[Row], ranking: list[Row], without: dict[str, list[str]], price: str, steps: float) -> str:
    best = ranking[0]
    at = f"when each may take {price} a step and {steps:g} steps are averaged"
    if ranked[0]["reference_norm"] > 0:
        text = f"error {best['error']:.0%} of the gradient's norm, a descent of {best['worth']:.0%} of the gradient's own, {at}"
    else:
        text = f"the gradient cannot be told from zero; this one has the least error {at}"
    if len(ranked) > 1 and ranked[0]["reference_norm"] > 0:
        text += f"; next is {ranking[1]['estimator']}, {_figures(ranked[1], ranking[1], without)}"
    if names := without[best["estimator"]]:
        return f"{text}; but it {_leaves(names)}, as all audited estimators leave some: {REMEDY}"
    return f"{text}; {_about_bias(ranked)}"


def _figures(row: Row, entry: Row, without: dict[str, list[str]]) -> str:
    if not has_gradient(row):
        return "without a gradient"
    names = without[entry["estimator"]]
    return _leaves(names) if names else f"error {entry['error']:.0%}, descent {entry['worth']:.0%}"


def _leaves(names: list[str]) -> str:
    """Says what is not trained."""
    return f"leaves {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} without a gradient"


def _about_bias(ranked: list[Row]) -> str:
    """Whether the best one is biased, and then for how long an average an unbiased one errs less."""
    best = ranked[0]
    if best.get("unbiased"):
        return "unbiased"
    bias2 = bias_squared(best)
    if best["bias"] <= (best.get("bias_se") or 0.0):
        return "biased, but no bias could be told from none"
    rival = next((row for row in ranked if row.get("unbiased")), None)
    if rival is None:
        return "biased, and nothing unbiased was audited"
    time = median(row["milliseconds"] for row in ranked)
    own, other = (_variance(row, time, 1.0) for row in (best, rival))
    if other <= own:
        return "biased"
    return f"biased: averaged over more than about {(other - own) / bias2:.0f} steps, {rival['estimator']} errs less"
