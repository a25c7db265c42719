"""How biased and how noisy each estimator is at several points of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dither.plots._figure import MARKERS, PALETTE, Row, new_figure, style
from dither.plots.audit import bias_squared, describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LINES = len(PALETTE)  # more lines than colours could not be told apart


def draw(records: Sequence[Row], *, parameter: str = "overall", title: str = "") -> Figure:
    """Bias squared on the left, variance on the right, against the step of training, a line per estimator.

    records     rows of `AuditReport.to_dicts()`, each with the `step` that was audited
    A hollow mark is a bias that cannot be told from none: it is drawn at `bias_se`, and may be less. Where there are
    more estimators than colours, those of lowest squared error at the last step are drawn.
    Raises      ValueError when no record is about `parameter` or has a step.
    """
    rows = [row for row in records if row.get("parameter") == parameter and row.get("step") is not None]
    if not rows:
        raise ValueError(f"no record with parameter {parameter!r} and a step: audit a run's checkpoints")
    last = max(row["step"] for row in rows)
    ranked = sorted((row for row in rows if row["step"] == last), key=lambda row: row["mse"])
    names = [row["estimator"] for row in ranked][:MAX_LINES]
    with style():
        figure = new_figure(width=9.0, height=4.2)
        left, right = figure.subplots(1, 2, sharey=True)
        for i, name in enumerate(names):
            own = sorted((row for row in rows if row["estimator"] == name), key=lambda row: row["step"])
            _lines(left, right, own, PALETTE[i], MARKERS[i])
        for ax, label in ((left, "bias² (hollow: at most)"), (right, "variance of one estimate")):
            ax.set_yscale("log")
            ax.set_xlabel("step of training")
            ax.set_title(label, loc="left", fontsize=10)
        left.set_ylabel("squared gradient units (log scale)")
        some = f", the {MAX_LINES} of lowest error at step {last}" if len(ranked) > MAX_LINES else ""
        figure.suptitle(f"{title or 'Error of one gradient estimate during training'}{some}\n{describe(ranked)}", fontsize=10)
        handles, labels = right.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(names), 4), fontsize=9)
    return figure


def _lines(left: Axes, right: Axes, rows: Sequence[Row], color: str, marker: str) -> None:
    steps = [row["step"] for row in rows]
    how: dict[str, Any] = {"color": color, "marker": marker, "markersize": 5, "linewidth": 1.4}
    biases = [bias_squared(row) for row in rows]
    left.plot(steps, [_visible(bias2) for bias2, _ in biases], **how)
    hollow = [(step, bias2) for step, (bias2, seen) in zip(steps, biases, strict=True) if not seen and bias2 > 0]
    for step, bias2 in hollow:
        left.plot([step], [bias2], **{**how, "markerfacecolor": "white", "zorder": 4})
    right.plot(steps, [_visible(row["variance"]) for row in rows], **how, label=rows[0]["estimator"])


def _visible(value: float) -> float:
    """Nothing is drawn of zero, which a log scale does not have."""
    return value if value > 0 else float("nan")
