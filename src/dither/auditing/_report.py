"""What an audit returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from dither.auditing._html import render_html, render_table
from dither.auditing._recommendation import STEPS, Recommendation, recommend
from dither.auditing._rows import COLUMNS, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table


@dataclass(frozen=True)
class AuditReport:
    """How good each estimator's gradient is on this model: one row per estimator and parameter, and one "overall".

    rows        flat dicts with `estimator`, `parameter` ("overall" for all together), the columns of
                `auditing.COLUMNS`, and `reference`
    reference   what the estimates were compared with, and its precision
    draws       per estimator
    """

    rows: Sequence[Row]
    reference: str
    draws: int

    def to_dicts(self) -> list[Row]:
        """The rows, as plain dicts for JSON or a data frame."""
        return [dict(row) for row in self.rows]

    def overall(self) -> dict[str, Row]:
        """The "overall" row of each estimator, by its name."""
        return {row["estimator"]: dict(row) for row in self.rows if row["parameter"] == "overall"}

    def recommend(self, steps: float = STEPS) -> Recommendation:
        """The estimator that descends farthest at equal time, when an optimizer averages `steps` gradients, and why."""
        return recommend(self.to_dicts(), steps=steps)

    def html(self, title: str = "Gradient audit") -> str:
        """The whole report, with its figure, as the text of one file: `Path("a.html").write_text(report.html())`."""
        return render_html([("", self.to_dicts(), self.recommend())], title=title)

    def _repr_html_(self) -> str:
        """What a notebook shows: the table of `html`, best first, and the recommendation."""
        best = self.recommend()
        name = escape(best.estimator or "None")
        return f"{render_table(self.rows, best)}<p><b>{name}</b>: {escape(best.reason)}.</p>"

    def table(self, parameters: bool = False) -> Table:
        """A rich table: `rich.print(report.table())`. parameters=True adds a row per parameter tensor."""
        from rich.table import Table

        table = Table(
            title="Gradient audit", caption=f"{self.draws} draws each; reference: {self.reference}", caption_justify="left"
        )
        table.add_column("estimator", no_wrap=True)
        if parameters:
            table.add_column("parameter", no_wrap=True)
        for name in COLUMNS:
            table.add_column(name.replace("_", " "), justify="right")
        best = max((row for row in self.rows if row["parameter"] == "overall"), key=lambda row: row["efficiency"] or 0)
        for row in self.rows:
            if not parameters and row["parameter"] != "overall":
                continue
            cells = [row["estimator"]] + ([row["parameter"]] if parameters else [])
            table.add_row(*cells, *(_number(row[name]) for name in COLUMNS), style="bold" if row is best else None)
        return table

    def plot(self, ax: Axes | None = None) -> Axes:
        """Squared bias against variance, a point per estimator (needs matplotlib)."""
        from dither.plots import audit

        return audit.draw(self.to_dicts(), ax)

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=150, color_system=None)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3g}"
