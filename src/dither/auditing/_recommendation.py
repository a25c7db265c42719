"""Which estimator here? The one of minimum error when all get the same time, and the reason in figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from dither.auditing._rows import Row

STEPS = 10  # gradients that an optimizer averages: momentum .9, or Adam's first moment


@dataclass(frozen=True)
class Recommendation:
    """What an audit recommends.

    estimator   its name in the audit
    reason      why, in figures
    ranking     rows {"estimator", "error"}, best first; the error is the root of the mean squared error at equal time,
                as a share of the gradient's norm
    """

    estimator: str
    reason: str
    ranking: Sequence[Row]

    def __str__(self) -> str:
        return f"{self.estimator}: {self.reason}"


def bias_squared(row: Row) -> float:
    """The bias to count with: 0 for an estimator that is unbiased by proof, of which an audit measures only noise.

    For another it is at least the noise of the measurement (`bias_se`), under which a bias may hide.
    """
    return 0.0 if row.get("unbiased") else max(row["bias"], row.get("bias_se") or 0.0) ** 2


def equal_time_mse(row: Row, milliseconds: float, steps: float = 1.0) -> float:
    """bias^2 + variance of the mean of `steps` gradients, each of as many draws as fit in `milliseconds`."""
    return bias_squared(row) + row["variance"] * row["milliseconds"] / (milliseconds * steps)


def recommend(rows: Sequence[Row], steps: float = STEPS, unit: str = "ms") -> Recommendation:
    """From an audit's "overall" rows; `unit` is that of their "milliseconds".

    All get the same time, the median of their draws': the faster ones average more draws, the slower ones fewer. An
    optimizer averages `steps` such gradients, which reduces the variance and leaves the bias.
    """
    rows = [row for row in rows if row["parameter"] == "overall"]
    if not rows:
        raise ValueError("the audit has no overall row: there is nothing to choose from")
    time = median(row["milliseconds"] for row in rows)
    errors = {row["estimator"]: equal_time_mse(row, time, steps) for row in rows}
    ranked = sorted(rows, key=lambda row: errors[row["estimator"]])
    norm = ranked[0].get("reference_norm") or 1.0
    ranking = [{"estimator": row["estimator"], "error": errors[row["estimator"]] ** 0.5 / norm} for row in ranked]
    return Recommendation(ranked[0]["estimator"], _reason(ranked, ranking, f"{time:.3g} {unit}", steps), ranking)


def _reason(ranked: list[Row], ranking: list[Row], price: str, steps: float) -> str:
    text = (
        f"error {ranking[0]['error']:.0%} of the gradient's norm when each may take {price} a step and {steps:g} steps "
        "are averaged"
    )
    if len(ranked) > 1:
        best, second = ranking[0]["error"], ranking[1]["error"]
        text += f"; next is {ranking[1]['estimator']}, " + (
            f"{second / best:.3g} times that" if best > 0 else f"with {second:.0%}"
        )
    return f"{text}; {_about_bias(ranked)}"


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
    own, other = (row["variance"] * row["milliseconds"] / time for row in (best, rival))
    if other <= own:
        return "biased"
    return f"biased: averaged over more than about {(other - own) / bias2:.0f} steps, {rival['estimator']} errs less"
