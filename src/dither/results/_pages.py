"""The tables in pages, filled from the files."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dither import files
from dither.results._files import FOLDER, load
from dither.results._tables import cell, check_column, to_markdown

HEAD = re.compile(r"<!-- *results\b[^\n]*")  # of a block, or of what was meant for one
BLOCK = re.compile(r"(<!-- results:([\w.-]+)((?: +[^\n]+?)?) *-->\n)(.*?)(<!-- end -->)", re.DOTALL)

Row = Mapping[str, Any]


def fill(document: str, folder: Path = FOLDER) -> str:
    """The document with each `<!-- results:NAME columns where ... -->` block made anew from folder/NAME.json.

    Raises      ValueError naming the line, what is wrong with its block, and the remedy.
    """
    blocks = {match.start(): match for match in BLOCK.finditer(document)}
    for head in HEAD.finditer(document):
        block = blocks.get(head.start())
        if block is None or HEAD.search(block[4]):
            text = head[0] if block is None else f"results:{block[2]}"
            raise ValueError(
                f"{_line(document, head.start())}: {text!r} is no block; write <!-- results:NAME columns --> on a line of its "
                "own, and <!-- end --> below its table"
            )

    def table(match: re.Match[str]) -> str:
        head, name, words, _, end = match.groups()
        try:
            columns, conditions = _split(words)
            return head + to_markdown(_where(load(name, folder)["rows"], conditions), columns) + end
        except (ValueError, OSError) as error:
            raise ValueError(f"{_line(document, match.start())}: block results:{name}: {error}") from None

    return BLOCK.sub(table, document)


def _line(document: str, at: int) -> str:
    return f"line {document.count(chr(10), 0, at) + 1}"


def _split(words: str) -> tuple[list[str], list[str]]:
    """(columns, conditions)."""
    try:
        parts = shlex.split(words)
    except ValueError as error:
        raise ValueError(f"{words.strip()!r} cannot be split into words ({error}); close the quote") from None
    at = parts.index("where") if "where" in parts else len(parts)
    if wrong := [part for part in parts[at + 1 :] if "=" not in part]:
        raise ValueError(f"{wrong[0]!r} is no condition; write where column=value or column=value|value")
    return parts[:at], parts[at + 1 :]


def _where(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    chosen = list(rows)
    for condition in conditions:
        column, _, values = condition.partition("=")
        check_column(rows, column)
        shown = sorted({cell(row, column) for row in chosen})
        chosen = [row for row in chosen if cell(row, column) in values.split("|")]
        if not chosen:
            raise ValueError(f"no row has {' and '.join(conditions)}; {column} may be {', '.join(shown)}")
    return chosen


# --- the command --------------------------------------------------------------------------------------------------------
USAGE = "usage: python -m dither.results [--check] FILE..."


def main(argv: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """`python -m dither.results [--check] FILE...`; 1 for a page that cannot be filled, or with --check one that is out of
    date; 2 for a command line that says neither; else 0."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    pages = [Path(a) for a in arguments if not a.startswith("-")]
    if {"-h", "--help"} & set(arguments):
        print(f"{USAGE}\nFill the tables of pages from results/; --check only says which are out of date.")
        return 0
    unknown = [a for a in arguments if a.startswith("-") and a != "--check"]
    if unknown or not pages:
        print(f"{USAGE}: {f'unknown option {unknown[0]}' if unknown else 'name the pages to fill'}", file=sys.stderr)
        return 2
    # Every page is looked at, whatever is wrong with another.
    return max([_fill_page(page, folder, "--check" in arguments) for page in pages])


def _fill_page(path: Path, folder: Path, check: bool) -> int:
    try:
        old = path.read_text(encoding="utf-8")
        new = fill(old, folder)
        if new != old and not check:
            files.write_atomic(path, new.encode())
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return _fail(f"{path}: line {line}: byte {error.object[error.start]:#x} is no UTF-8 text; save it as UTF-8")
    except OSError as error:
        return _fail(f"{path}: {error.strerror or error}; check the path")
    except ValueError as error:
        return _fail(f"{path}: {error}")
    if new != old:
        print(f"{path}: {'out of date; run python -m dither.results ' + str(path) if check else 'updated'}", file=sys.stderr)
    return int(check and new != old)


def _fail(line: str) -> int:
    print(" ".join(line.split()), file=sys.stderr)
    return 1
