"""The files themselves: what one may hold, and curves thinned to what a picture needs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dither import files

FOLDER = Path("results")
SCHEMA = {"command": str, "seconds": float, "environment": dict, "config": dict, "rows": list}
# Words on what made a file of which `environment` does not say it: no commit, a tree with changes, names that changed since.
OPTIONAL = {"made_by": str}
POINTS, DIGITS = 40, 4  # of a curve that only a picture needs
MANY = 100  # rows, from which their columns are named once
X = ("epoch", "step", "episode")  # what a curve runs along

Row = Mapping[str, Any]


def save(name: str, payload: Mapping[str, Any], folder: Path = FOLDER) -> Path:
    """Writes folder/name.json whole or not at all, and returns its path.

    payload     {"command": str, "seconds": float, "environment": {}, "config": {}, "rows": [{...}, ...]}, and perhaps
                "made_by": str
    Raises      ValueError naming the key that is missing, unknown, of another type, or not finite.
    """
    checked = validate(payload, where=f"payload of {name!r}")
    path = folder / f"{check_name(name)}.json"
    folder.mkdir(parents=True, exist_ok=True)
    files.write_atomic(path, dumps(checked).encode())
    return path


def dumps(payload: Mapping[str, Any]) -> str:
    """The text of a file: one row a line, so that a row that changes is one line of a diff. Of many rows the columns are named
    once, before the first that has them."""
    head = json.dumps({key: value for key, value in payload.items() if key != "rows"}, indent=1, allow_nan=False)
    lines = payload["rows"] if len(payload["rows"]) < MANY else _named_once(payload["rows"])
    rows = ",\n".join(f"  {json.dumps(line, allow_nan=False)}" for line in lines)
    return head.removesuffix("\n}") + f',\n "rows": [\n{rows}\n ]\n}}\n'


def _named_once(rows: Sequence[Row]) -> Iterator[dict[str, Any] | list[Any]]:
    """Lists of values, each behind {"columns": their names} where those are not the ones before."""
    columns: list[str] = []
    for row in rows:
        if list(row) != columns:
            columns = list(row)
            yield {"columns": columns}
        yield list(row.values())


def _each_named(lines: Any) -> Any:
    """The rows as objects again."""
    if not isinstance(lines, list) or not any(isinstance(line, list) for line in lines):
        return lines
    rows, columns = [], []
    for line in lines:
        if isinstance(line, dict) and list(line) == ["columns"]:
            columns = line["columns"]
        else:
            rows.append(dict(zip(columns, line, strict=True)) if isinstance(line, list) else line)
    return rows


def load(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """The payload that `save` wrote. Raises FileNotFoundError, or ValueError for a file not written by it."""
    path = folder / f"{check_name(name)}.json"
    if not path.is_file():
        raise FileNotFoundError(f"no result {path}: run the experiment that writes it")
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}; run its experiment again") from None
    if isinstance(payload, dict) and "rows" in payload:
        payload["rows"] = _each_named(payload["rows"])
    return validate(payload, where=str(path))


def check_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise ValueError(f"name is {name!r}, expected lower-case letters, digits, '-', '_' and '.' as in 'first-demo'")
    return name


# --- what a file may hold -----------------------------------------------------------------------------------------------
def validate(payload: Any, where: str) -> dict[str, Any]:
    """The payload with every key of the schema, no unknown one, and flat rows of finite plain values."""
    if not isinstance(payload, Mapping):
        raise ValueError(f"{where} is {type(payload).__name__}, expected an object with keys {', '.join(SCHEMA)}")
    for key in set(SCHEMA) ^ (set(payload) - set(OPTIONAL)):
        word = "lacks" if key in SCHEMA else "has the unknown key"
        raise ValueError(f"{where} {word} {key!r}; the keys are {', '.join(SCHEMA)}, and perhaps {', '.join(OPTIONAL)}")
    for key, kind in (SCHEMA | OPTIONAL).items():
        value = payload.get(key, "")
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise ValueError(f"{where}: {key} is {type(value).__name__}, expected {kind.__name__}")
    for number, row in enumerate(payload["rows"]):
        check_row(row, f"{where}: rows[{number}]")
    return dict(payload)


def check_row(row: Any, where: str) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is {type(row).__name__}, expected a flat object")
    for key, value in row.items():
        if not isinstance(value, (str, int, float, bool, type(None))):
            raise ValueError(f"{where}[{key!r}] is {type(value).__name__}, expected a string, number, bool or null")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{where}[{key!r}] is {value}: a published number is finite, use null for none")


# --- curves, which only pictures need -----------------------------------------------------------------------------------
def thin(rows: Sequence[Row], points: int = POINTS) -> list[dict[str, Any]]:
    """The rows of curves at `points` places each, evenly spaced with the first and the last, all numbers to four digits.

    A curve is all rows with the same columns and the same words; the seeds of one stay at the same places, so that means over
    them are what they were. Rows with no epoch, step or episode are no curve: all stay.
    """
    curves: dict[tuple[Any, ...], set[float]] = {}
    for row in rows:
        if (x := _x(row)) is not None:
            curves.setdefault(_curve(row), set()).add(x)
    places = {curve: _spaced(sorted(xs), points) for curve, xs in curves.items()}
    thinned = [row for row in rows if (x := _x(row)) is None or x in places[_curve(row)]]
    return [{k: float(f"{v:.{DIGITS}g}") if isinstance(v, float) else v for k, v in row.items()} for row in thinned]


def _x(row: Row) -> float | None:
    return next((row[name] for name in X if row.get(name) is not None), None)


def _curve(row: Row) -> tuple[Any, ...]:
    return frozenset(row), *sorted((key, value) for key, value in row.items() if isinstance(value, str))


def _spaced(xs: Sequence[float], points: int) -> set[float]:
    count = min(points, len(xs))
    return {xs[round(i * (len(xs) - 1) / max(1, count - 1))] for i in range(count)}
