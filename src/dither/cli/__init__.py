"""The command line: `dither VERB ...`. One file per verb; torch is imported by the verbs, when they run.

Each verb is a module with `Command`, a frozen dataclass that is its command line, and `run(command) -> int`.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from dither.cli.errors import OK, USAGE, guarded
from dither.cli.out import Out

VERBS = {
    "train": "train a network with hard stochastic units and report its test accuracy",
    "audit": "measure how biased and how noisy gradient estimators are, on a run or on your own model",
    "sample": "draw from a trained generative model, or complete an image of which a half is given",
    "plot": "draw the learning curves and the audit of a run",
    "experiment": "list the experiments, or run one",
    "bench": "list the benchmarks, or run one",
    "env": "print versions and hardware, to paste into a report",
}

USAGE_TEXT = """usage: dither VERB [OPTIONS]

Train neural networks that take hard, random decisions.

verbs:
{verbs}

options:
  -h, --help   show this text, or with a verb that verb's options: dither train --help
  --version    print the version

A first run:  dither train && dither audit runs/train/<the folder it names>
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (`dither.cli.errors` lists them)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: dispatch(arguments))


def dispatch(arguments: list[str]) -> int:
    """Hands the arguments after the verb to the verb's module."""
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help", "help"):
        print(usage(), end="")
        return OK
    if first == "--version":
        from dither import __version__

        print(f"dither {__version__}")
        return OK
    if first not in VERBS:
        complain(first)
        return USAGE
    return import_module(f"dither.cli.{first}").main(arguments[1:])


def usage() -> str:
    return USAGE_TEXT.format(verbs="\n".join(f"  {verb:<12} {text}" for verb, text in VERBS.items()))


def complain(first: str) -> None:
    out = Out()
    if not first:
        print(usage(), end="", file=sys.stderr)
        out.error("no verb given")
        return
    near = difflib.get_close_matches(first, VERBS, n=1)
    hint = f"; perhaps you meant: dither {near[0]}" if near else ""
    out.error(f"unknown verb {first!r}, expected one of {', '.join(VERBS)}{hint}")
