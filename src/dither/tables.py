"""What an experiment or a benchmark returns: a table of rows, the curves behind it, figures.

Each is a module with `Config`, a frozen dataclass that is its command line, and

    def run(config: Config, folder: Path, progress: Progress = print) -> Result: ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

Row = dict[str, Any]  # column -> text, number, truth value or None: what a JSON object of a table holds
Progress = Callable[[str], object]  # is told one line of text
NamedFigure = tuple[str, "Figure | SubFigure"]


class Result(TypedDict):
    """rows       the table
    curves     rows of what figures show
    seconds    of training, where earlier runs did a part of it
    """

    rows: list[Row]
    curves: NotRequired[list[Row]]
    figures: NotRequired[list[NamedFigure]]
    seconds: NotRequired[float]
