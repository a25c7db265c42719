"""Published results: small JSON files, and the tables in README and docs made from them.

A figure in the text is never typed by hand. `save` writes results/NAME.json; a block in a Markdown file

    <!-- results:NAME column column ... where column=value column=value|value -->
    <!-- end -->

is filled from it by `python -m dither.results README.md docs/guide.md`; `--check` only says whether it is. `where` is optional
and keeps some rows: those with one of the values, spelled as the table shows them, in every column that it names. A value with
spaces stands in quotes: "implementation=torch, bernoulli".

A column x whose rows have `x_sd` too is shown as mean ± standard deviation (n): n is `x_n`, or else the row's `seeds`, or `n`.
"""

from dither.results._files import FOLDER, OPTIONAL, POINTS, SCHEMA, dumps, load, save, thin, validate
from dither.results._pages import BLOCK, fill, main
from dither.results._tables import cell, mean_and_sd, to_markdown

__all__ = [
    "BLOCK",
    "FOLDER",
    "OPTIONAL",
    "POINTS",
    "SCHEMA",
    "cell",
    "dumps",
    "fill",
    "load",
    "main",
    "mean_and_sd",
    "save",
    "thin",
    "to_markdown",
    "validate",
]
