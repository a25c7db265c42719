"""Learning curves: the mean over seeds, with a band from the worst to the best of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from dither.plots._figure import Row, curve, new_axes, note, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {
    "epoch": "epoch",
    "step": "step",
    "episode": "episode",
    "seconds": "training time (seconds)",
    "validation_accuracy": "validation accuracy (fraction)",
    "test_accuracy": "test accuracy (fraction)",
    "return": "return per episode (sum of rewards)",
    "train_elbo": "training evidence bound (nats per example)",
    "train_loss": "training loss (nats per example)",
    "validation_loss": "validation loss (nats per example)",
    "nats": "training cost (nats per example)",
    "parzen": "Parzen log-likelihood (nats per example)",
}
MANY = 8  # curves: more than that lie on each other, unless the steep start is cut off
START = 0.1  # the part of the axis that is their start


def draw(
    records: Sequence[Row],
    ax: Axes | None = None,
    *,
    x: str = "epoch",
    y: str = "validation_accuracy",
    group: str = "estimator",
    title: str = "",
) -> Axes:
    """One curve per value of `group`; records are flat rows, one per (group, seed, epoch).

    records     [{"estimator": "exact", "seed": 0, "epoch": 1, "seconds": 2, "validation_accuracy": .9}, ...]
                rows without `y` are skipped, `seed` and `group` may be missing (one curve)
    x           "epoch" or "step"; "seconds" puts each epoch at its mean time over the seeds
    Raises      ValueError when no record has both `x` and `y`.
    """
    curves = collect(records, x, y, group)
    if not curves:
        keys = sorted({key for record in records for key in record})
        raise ValueError(f"no record has both {x!r} and {y!r}; {len(records)} records have {', '.join(keys) or 'no key'}")
    beside, many = len(curves) > 4, len(curves) > MANY
    with style():
        ax = ax or new_axes(10.0 if beside else 7.0, 5.4 if many else 4.2)
        for i, (name, points) in enumerate(curves.items()):
            xs, means, lows, highs, seeds = zip(*points, strict=True)
            n = max(seeds)
            label = f"{name} (n = {n})" if name else f"n = {n}"
            curve(ax, i, xs, means, (lows, highs) if n > 1 else None, label, markevery=max(1, len(xs) // 12))
        ax.set_xlabel(NAMES.get(x, x.replace("_", " ")))
        ax.set_ylabel(NAMES.get(y, y.replace("_", " ")))
        ax.set_title(title, loc="left", fontsize=11)
        seeds = {point[4] for points in curves.values() for point in points}
        notes = ["line: mean, band: range over n seeds" if max(seeds) > 1 else "one seed" if beside else ""]
        if many:
            _without_start(ax, curves)
            notes.append("start cut off")
        note(ax, "; ".join(filter(None, notes)))
        # In the order of the lines' ends, from the top.
        handles, labels = ax.get_legend_handles_labels()
        last = [points[-1][1] for points in curves.values()]
        order = sorted(range(len(labels)), key=lambda i: -last[i]) if len(labels) == len(last) else range(len(labels))
        ax.legend(
            [handles[i] for i in order], [labels[i] for i in order], fontsize=9,
            loc="center left" if beside else "best", bbox_to_anchor=(1, 0.5) if beside else None,
        )  # fmt: skip
        if y.endswith("accuracy"):
            _spread_near_one(ax)
        if x in ("epoch", "step", "episode"):
            from matplotlib.ticker import MaxNLocator

            ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    return ax


def _without_start(ax: Axes, curves: dict[str, list[tuple[float, float, float, float, int]]]) -> None:
    """Limits of the vertical axis that leave out what lies before START."""
    xs = [point[0] for points in curves.values() for point in points]
    begin = min(xs) + START * (max(xs) - min(xs))
    ys = [value for points in curves.values() for point in points if point[0] >= begin for value in point[2:4]]
    margin = 0.03 * (max(ys) - min(ys))
    ax.set_ylim(min(ys) - margin, max(ys) + margin)


def _spread_near_one(ax: Axes) -> None:
    """From .98 to .99 halves the errors: on a logit scale that is as far as from .96 to .98."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = ax.dataLim.intervaly
    ax.set_yscale("logit", nonpositive="clip")
    ax.set_ylim(max(0.01, min(low, 0.9) - 0.02), min(0.997, 1 - (1 - high) / 1.5))
    ax.yaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def collect(records: Sequence[Row], x: str, y: str, group: str) -> dict[str, list[tuple[float, float, float, float, int]]]:
    """name -> [(x, mean, lowest, highest, number of seeds), ...], one per epoch (or step), in order."""
    cells: dict[str, dict[float, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.get(x) is None or record.get(y) is None:
            continue
        # Seeds meet at the same epoch, never at the same second.
        meeting = (
            next((record[key] for key in ("epoch", "step", "episode") if key in record), record[x])
            if x == "seconds"
            else record[x]
        )
        cells[str(record.get(group, ""))][float(meeting)].append((float(record[x]), float(record[y])))
    curves = {}
    for name, by_meeting in cells.items():
        rows = []
        for _, pairs in sorted(by_meeting.items()):
            values = [value for _, value in pairs]
            rows.append((fmean(p for p, _ in pairs), fmean(values), min(values), max(values), len(values)))
        curves[name] = rows
    return curves
