"""Published results: small JSON files, and the tables in README and docs made from them.

A figure in the text is never typed by hand. `save` writes results/NAME.json; a block in a Markdown file

    <!-- results:NAME column column ... -->
    <!-- end -->

is filled from it by `python -m dither.results README.md docs/guide.md`; `--check` only says whether it is.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dither import files

FOLDER = Path("results")
SCHEMA = {"command": str, "seconds": float, "environment": dict, "config": dict, "rows": list}
BLOCK = re.compile(r"(<!-- results:([\w.-]+)((?: +[\w.-]+)*) *-->\n)(.*?)(<!-- end -->)", re.DOTALL)


def save(name: str, payload: Mapping[str, Any], folder: Path = FOLDER) -> Path:
    """Writes folder/name.json whole or not at all, and returns its path.

    payload     {"command": str, "seconds": float, "environment": {}, "config": {}, "rows": [{...}, ...]}
    Raises      ValueError naming the key that is missing, unknown, of another type, or not finite.
    """
    checked = validate(payload, where=f"payload of {name!r}")
    path = folder / f"{check_name(name)}.json"
    folder.mkdir(parents=True, exist_ok=True)
    files.write_atomic(path, (json.dumps(checked, indent=1, allow_nan=False) + "\n").encode())
    return path


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


def validate(payload: Any, where: str) -> dict[str, Any]:
    """The payload with every key of the schema, no other, and flat rows of finite plain values."""
    if not isinstance(payload, Mapping):
        raise ValueError(f"{where} is {type(payload).__name__}, expected an object with keys {', '.join(SCHEMA)}")
    for key in set(SCHEMA) ^ set(payload):
        word = "lacks" if key in SCHEMA else "has the unknown key"
        raise ValueError(f"{where} {word} {key!r}; the keys are {', '.join(SCHEMA)}")
    for key, kind in SCHEMA.items():
        value = payload[key]
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


def to_markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """The rows as a Markdown table; `columns` chooses and orders them (default: the first row's keys)."""
    columns = list(columns or (rows[0] if rows else []))
    for column in columns:
        if not any(column in row for row in rows):
            known = sorted({key for row in rows for key in row})
            raise ValueError(f"column {column!r} is in no row; the rows have {', '.join(known)}")
    numbers = {c for c in columns if all(isinstance(row.get(c), (int, float, type(None))) for row in rows)}
    lines = [[c.replace("_", " ") for c in columns], ["---:" if c in numbers else "---" for c in columns]]
    lines += [[text(row.get(c)) for c in columns] for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def fill(document: str, folder: Path = FOLDER) -> str:
    """The document with each `<!-- results:NAME columns -->` block made anew from folder/NAME.json."""

    def table(match: re.Match[str]) -> str:
        head, name, columns, _, end = match.groups()
        return head + to_markdown(load(name, folder)["rows"], columns.split()) + end

    return BLOCK.sub(table, document)


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
