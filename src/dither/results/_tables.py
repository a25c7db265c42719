"""Rows as a Markdown table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def to_markdown(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """The rows as a Markdown table; `columns` chooses and orders them (default: the first row's keys)."""
    columns = list(columns or _shown(rows[0] if rows else {}))
    for column in columns:
        check_column(rows, column)
    numbers = {c for c in columns if all(isinstance(row.get(c), (int, float, type(None))) for row in rows)}
    lines = [[c.replace("_", " ") for c in columns], ["---:" if c in numbers else "---" for c in columns]]
    lines += [[cell(row, c) for c in columns] for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _shown(row: Row) -> Iterator[str]:
    """All columns but those that are part of another's cell."""
    for column in row:
        base, _, part = column.rpartition("_")
        if not (part in ("sd", "n") and base in row):
            yield column


def check_column(rows: Sequence[Row], column: str) -> None:
    if not any(column in row for row in rows):
        known = sorted({key for row in rows for key in row})
        raise ValueError(f"column {column!r} is in no row; write one of {', '.join(known)}")


def cell(row: Row, column: str) -> str:
    """The value, or mean ± standard deviation (n) where the row has `COLUMN_sd`."""
    mean, sd = row.get(column), row.get(f"{column}_sd")
    if mean is None or sd is None:
        return text(mean)
    n = next((row[key] for key in (f"{column}_n", "seeds", "n") if row.get(key) is not None), None)
    return mean_and_sd(mean, sd) + (f" ({n})" if n is not None else "")


def mean_and_sd(mean: float, sd: float) -> str:
    """Two significant digits of the standard deviation decide how many the mean has."""
    if not sd:
        return f"{text(mean)} ± 0"
    digits = max(0, 1 - math.floor(math.log10(float(f"{sd:.1e}"))))
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"


def text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
