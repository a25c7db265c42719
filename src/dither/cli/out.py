"""Where words go: results to stdout, everything else to stderr.

A pipe must receive nothing but results, so `dither audit RUN --json | jq` works whatever else there is to
say. A person gets a table, a pipe gets tab-separated values, `--json` gives one object a line.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

Row = dict[str, Any]  # what a JSON object of a table holds

LINE_EVERY = 60.0  # seconds between progress lines where there is no terminal to redraw


def wants_color(stream: IO[str]) -> bool:
    """NO_COLOR beats FORCE_COLOR beats TERM=dumb beats "is it a terminal?"."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return os.environ.get("TERM") not in ("dumb", "unknown") and stream.isatty()


def finite(value: object) -> object:
    """`value` with NaN and infinities as null: jq and JSON.parse refuse Python's bare NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def cell(value: object) -> str:
    """One table cell: four significant digits, empty for None, no tab or newline."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " ".join(map(cell, value))
    return " ".join(str(value).split())


class Out:
    """What one command prints. `json` and `quiet` are the flags of the same names.

    `record`, `line` and `table` print results. `quiet` silences `note`, which is a hint, but not `warn` and `error`.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json, self.quiet = json, quiet

    def console(self, stream: IO[str]) -> Console:
        from rich.console import Console

        color = wants_color(stream)
        system = "standard" if os.environ.get("TERM") in ("dumb", "unknown", None) else "auto"
        return Console(
            file=stream,
            force_terminal=True if color else None,
            # Rich keeps bold under NO_COLOR; no colour system means no escape sequence at all.
            color_system=system if color else None,
            highlight=False,
            soft_wrap=True,
        )

    def record(self, row: Mapping[str, object]) -> None:
        """One JSON object on stdout (under --json only)."""
        if self.json:
            print(json.dumps(finite(row), default=str), flush=True)

    def line(self, text: str) -> None:
        """One line of result for people; --json has `record` instead."""
        if not self.json:
            print(text, flush=True)

    def table(self, rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None, title: str = "") -> None:
        """The rows as a table on a terminal, as TSV with a header in a pipe, as objects under --json."""
        if self.json:
            for row in rows:
                self.record(row)
            return
        columns = list(columns or (rows[0] if rows else []))
        if not (sys.stdout.isatty() or os.environ.get("FORCE_COLOR")):
            for cells in [columns, *([cell(row.get(c)) for c in columns] for row in rows)]:
                print("\t".join(cells), flush=True)
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title or None, title_justify="left")
        for c in columns:
            number = all(isinstance(row.get(c), (int, float, type(None))) for row in rows)
            table.add_column(Text(c.replace("_", " ")), justify="right" if number else "left")
        for row in rows:
            table.add_row(*(Text(cell(row.get(c))) for c in columns))
        console = self.console(sys.stdout)
        console.soft_wrap = False
        console.print(table)

    def note(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        self._mark("warning", "yellow", text)

    def error(self, text: str) -> None:
        self._mark("error", "bold red", text)

    def _mark(self, word: str, style: str, text: str) -> None:
        if not wants_color(sys.stderr):
            print(f"dither: {word}: {text}", file=sys.stderr, flush=True)
            return
        from rich.text import Text

        self.console(sys.stderr).print(Text.assemble("dither: ", (f"{word}:", style), f" {text}"))

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """`with out.progress("training") as p: p(done, total, "loss 0.3")`: a bar or log lines on stderr."""
        if self.quiet or os.environ.get("DITHER_NO_PROGRESS"):
            yield Progress()
        elif not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            yield LineProgress(title)
        else:
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
            )
            with Bars(*columns, console=self.console(sys.stderr), transient=True) as bars:
                yield BarProgress(bars, bars.add_task(title, total=None, text=""))


class Progress:
    """Says nothing; the two below do. Call it with (done, total, text)."""

    def __call__(self, done: float, total: float | None = None, text: str = "") -> None:
        pass


class LineProgress(Progress):
    """At most one line a minute, for logs."""

    def __init__(self, title: str) -> None:
        self.title, self.last = title, time.monotonic()

    def __call__(self, done: float, total: float | None = None, text: str = "") -> None:
        if time.monotonic() - self.last >= LINE_EVERY:
            self.last = time.monotonic()
            of = f"/{total:g}" if total else ""
            print(f"{self.title} {done:g}{of} {text}".rstrip(), file=sys.stderr, flush=True)


class BarProgress(Progress):
    """A bar redrawn in place."""

    def __init__(self, bars: Bars, task: TaskID) -> None:
        self.bars, self.task = bars, task

    def __call__(self, done: float, total: float | None = None, text: str = "") -> None:
        self.bars.update(self.task, completed=done, total=total, text=text)
