"""Published results: small JSON files, and the tables in README and docs made from them.

A figure in the text is never typed by hand. `save` writes results/NAME.json; a block in a Markdown file

    <!-- results:NAME column column ... where column=value column=value|value -->
    <!-- end -->

is filled from it by `python -m dither.results README.md docs/guide.md`; `--check` only says whether it is. `where` is optional
and keeps some rows: those with one of the values, spelled as the table shows them, in every column that it names. A value with
spaces stands in quotes: "implementation=torch, bernoulli".

A column x whose rows have `x_sd` too is shown as mean ± standard deviation (n): n is `x_n`, or else the row's `seeds`, or `n`.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dither import files

FOLDER = Path("results")
SCHEMA = {"command": str, "seconds": float, "environment": dict, "config": dict, "rows": list}
# Words on what made a file of which `environment` does not say it: no commit, a tree with changes, names that changed since.
OPTIONAL = {"made_by": str}
BLOCK = re.compile(r"(<!-- results:([\w.-]+)((?: +[^\n]+?)?) *-->\n)(.*?)(<!-- end -->)", re.DOTALL)
POINTS, DIGITS = 40, 4  # of a curve that only a picture needs
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
    """The text of a file: one row a line, so that a row that changes is one line of a diff."""
    head = json.dumps({key: value for key, value in payload.items() if key != "rows"}, indent=1, allow_nan=False)
    rows = ",\n".join(f"  {json.dumps(row, allow_nan=False)}" for row in payload["rows"])
    return head.removesuffix("\n}") + f',\n "rows": [\n{rows}\n ]\n}}\n'


def load(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """The payload that `save` wrote. Raises FileNotFoundError, or ValueError for a file not written by it."""
    path = folder / f"{check_name(name)}.json"
    if not path.is_file():
        raise FileNotFoundError(f"no result {path}: run the experiment that writes it")
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from None
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


# --- tables -------------------------------------------------------------------------------------------------------------
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
        raise ValueError(f"column {column!r} is in no row; the rows have {', '.join(known)}")


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


def fill(document: str, folder: Path = FOLDER) -> str:
    """The document with each `<!-- results:NAME columns where ... -->` block made anew from folder/NAME.json."""

    def table(match: re.Match[str]) -> str:
        head, name, words, _, end = match.groups()
        columns, conditions = _split(shlex.split(words), name)
        return head + to_markdown(_where(load(name, folder)["rows"], conditions, name), columns) + end

    return BLOCK.sub(table, document)


def _split(words: list[str], name: str) -> tuple[list[str], list[str]]:
    """(columns, conditions)."""
    at = words.index("where") if "where" in words else len(words)
    if wrong := [word for word in words[at + 1 :] if "=" not in word]:
        raise ValueError(f"block results:{name}: {wrong[0]!r} is no condition; write where column=value or column=value|value")
    return words[:at], words[at + 1 :]


def _where(rows: Sequence[Row], conditions: Sequence[str], name: str) -> list[Row]:
    chosen = list(rows)
    for condition in conditions:
        column, _, values = condition.partition("=")
        check_column(rows, column)
        chosen = [row for row in chosen if cell(row, column) in values.split("|")]
    if not chosen:
        raise ValueError(f"block results:{name}: no row has {' and '.join(conditions)}")
    return chosen


def main(argv: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """`python -m dither.results [--check] FILE...`; 1 when --check finds a block out of date, else 0."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    check = "--check" in arguments
    stale = 0
    for path in [Path(a) for a in arguments if a != "--check"]:
        old = path.read_text(encoding="utf-8")
        new = fill(old, folder)
        if new == old:
            continue
        stale += 1
        print(f"{path}: {'out of date' if check else 'updated'}", file=sys.stderr)
        if not check:
            files.write_atomic(path, new.encode())
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
