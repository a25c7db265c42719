"""How biased and how noisy each estimator is: bias squared, variance and their sum on one log scale."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

from dither.plots._figure import PALETTE, Row, new_axes, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BIAS, VARIANCE, MSE = PALETTE[1], PALETTE[0], PALETTE[6]
ZERO = "#888888"
CARET: Literal[4] = 4  # matplotlib's number for a triangle that points at the left edge and stands right of it
NOTHING = 1e-9  # a share of the largest value below which a value is rounding error and drawn as none


def draw(
    records: Sequence[Row],
    ax: Axes | None = None,
    *,
    parameter: str = "overall",
    title: str = "",
) -> Axes:
    """A line per estimator, best on top: its bias squared, its variance, and their sum, the squared error.

    records     rows of `AuditReport.to_dicts()`: estimator, parameter, bias, bias_se, variance, mse, ...
    A hollow circle is a bias that cannot be told from none: it is drawn at `bias_se`, and may be less.
    A grey triangle at the left edge is a value that is zero but for rounding.
    Raises      ValueError when no record is about `parameter`.
    """
    rows = [row for row in records if row.get("parameter") == parameter]
    if not rows:
        known = sorted({str(row.get("parameter")) for row in records})
        raise ValueError(f"no record with parameter {parameter!r}; there is {', '.join(known) or 'no record'}")
    rows.sort(key=lambda row: -row["mse"])
    biases = [bias_squared(row) for row in rows]
    values = [v for row, (b, _) in zip(rows, biases, strict=True) for v in (b, row["variance"], row["mse"])]
    largest = max([v for v in values if v > 0], default=1.0)
    visible = [v for v in values if v > largest * NOTHING] or [largest]
    left, right = min(visible) / 6, largest * 3
    with style():
        ax = ax or new_axes(height=1.9 + 0.48 * len(rows))
        ax.set_xscale("log")
        ax.set_xlim(left, right)
        ax.set_ylim(-0.6, len(rows) - 0.4)
        for y, (row, (bias2, seen)) in enumerate(zip(rows, biases, strict=True)):
            ends = [max(v, left) for v in (bias2, row["variance"], row["mse"])]
            ax.plot([min(ends), max(ends)], [y, y], color="#BBBBBB", linewidth=1.2, zorder=1)
            dot(ax, row["mse"], y, left, "|", MSE, size=16)
            dot(ax, row["variance"], y, left, "s", VARIANCE)
            dot(ax, bias2, y, left, "o", BIAS, hollow=not seen)
        ax.set_yticks(range(len(rows)), [label(row) for row in rows])
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("squared gradient units (log scale)")
        ax.set_title(f"{title or 'Error of one gradient estimate'}\n{describe(rows)}", loc="left", fontsize=10)
        legend(ax, hollow=not all(seen for _, seen in biases), none=min(values) <= left)
    return ax


def bias_squared(row: Row) -> tuple[float, bool]:
    """The value to draw, and whether the bias can be told from zero (else it is the upper limit)."""
    limit = row.get("bias_se") or 0.0
    bias = abs(row["bias"])
    return (bias**2, True) if bias > limit else (limit**2, False)


def dot(
    ax: Axes,
    value: float,
    y: float,
    left: float,
    marker: str,
    color: str,
    size: float = 7,
    hollow: bool = False,
) -> None:
    if value <= left:
        ax.plot([left], [y], marker=CARET, markersize=9, color=ZERO, linestyle="none", clip_on=False, zorder=2)
        return
    edge, face = (1.8 if hollow or marker == "|" else 1.0), ("white" if hollow else color)
    ax.plot(
        [value], [y], marker=marker, markersize=size, color=color, linestyle="none",
        zorder=4 if hollow else 3, markerfacecolor=face, markeredgewidth=edge,
    )  # fmt: skip


def label(row: Row) -> str:
    """The estimator's name and its price."""
    price = []
    if row.get("evaluations"):
        price.append(f"{row['evaluations']:g} evaluation{'' if row['evaluations'] == 1 else 's'}")
    if row.get("milliseconds"):
        price.append(f"{row['milliseconds']:.3g} ms")
    return f"{row['estimator']}\n{', '.join(price)}" if price else str(row["estimator"])


def describe(rows: Sequence[Row]) -> str:
    """n and the reference, in words."""
    parts = []
    if rows[0].get("draws"):
        parts.append(f"n = {rows[0]['draws']} draws")
    parts.append(f"against {rows[0].get('reference') or 'the true gradient'}")
    return fill(", ".join(parts).replace("+-", "±"), 62)


def legend(ax: Axes, hollow: bool, none: bool) -> None:
    from matplotlib.lines import Line2D

    def key(marker: str | Literal[4], color: str, text: str, **more: Any) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, color=color, label=text, **more)

    keys = [key("o", BIAS, "bias²"), key("s", VARIANCE, "variance")]
    keys.append(key("|", MSE, "mean squared error", markersize=13, markeredgewidth=1.8))
    if hollow:
        keys.insert(1, key("o", BIAS, "bias², at most", markerfacecolor="white", markeredgewidth=1.8))
    if none:
        keys.append(key(CARET, ZERO, "zero"))
    ax.figure.legend(
        handles=keys,
        loc="outside lower center",
        ncols=len(keys),
        fontsize=9,
        columnspacing=1.4,
        handletextpad=0.2,
    )
