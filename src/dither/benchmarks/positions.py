"""In which positions of a user's program the library's unbiased estimators are right, and in which they are refused.

Every configuration of every estimator that declares `unbiased`, on each kind of node that it takes, in every position of
`dither.testing.POSITIONS`. A wrong one ends the run with CheckFailed, which names it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import dither
from dither import estimators, testing
from dither.tables import Progress, Result
from dither.testing import Tiny

Build = Callable[[nn.Module], Any]
NODES = {"binary": dither.Bernoulli, "categorical": dither.Categorical}
# What a closure of two nodes is too many for.
DEPTHS = {"UnorderedSet": 1}


@dataclass(frozen=True)
class Config:
    """Every unbiased estimator in every position: how many are right, and which are refused."""

    positions: tuple[str, ...] = ()  # all
    threads: int = 1


@dataclass(frozen=True)
class Combination:
    """A configuration of an estimator, and a kind of node that it takes."""

    name: str
    build: Build
    kind: str

    def check(self, position: str) -> str:
        """ "right", or the message of the refusal. Raises testing.CheckFailed."""
        return testing.check_positions(self.build, positions=[position], node=NODES[self.kind], depth=depth(self.name))[
            position
        ]

    @property
    def family(self) -> str:
        return self.name.partition("-")[0]


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": a row per position}."""
    torch.set_num_threads(config.threads)
    combinations, rows = list(unbiased()), []
    for position in config.positions or testing.POSITIONS:
        began = time.monotonic()
        answers = {combination: combination.check(position) for combination in combinations}
        refused = sorted({c.family for c, answer in answers.items() if answer != "right"})
        right = sum(answer == "right" for answer in answers.values())
        rows.append(
            {
                "position": position,
                "combinations": len(answers),
                "right": right,
                "refused": len(answers) - right,
                "of": ", ".join(refused),
                "seconds": round(time.monotonic() - began, 1),
            }
        )
        progress(f"{position}: {right} of {len(answers)} right, the others refused")
    return {"rows": rows}


def unbiased() -> Iterator[Combination]:
    """The configurations of all exported estimators that declare `unbiased`, each with every kind of node that it takes."""
    for name, build in configurations().items():
        for kind, node in NODES.items():
            try:
                declared = build(Tiny(node, depth=depth(name))).unbiased
            except TypeError:  # of other nodes, or of chains only
                continue
            if declared:
                yield Combination(name, build, kind)


def configurations() -> dict[str, Build]:
    classes = [c for c in vars(estimators).values() if isinstance(c, type) and issubclass(c, estimators.Estimator)]
    rows: dict[str, Build] = {}
    for kind in classes:
        if hasattr(kind, "unbiased"):
            rows |= kind.configurations() or {kind.__name__: kind}
    scores = {"one": dither.ScoreFunction, "two": partial(dither.ScoreFunction, baseline="leave-one-out", samples=2)}
    return rows | {"Auto": partial(dither.Auto, candidates=scores, by="evaluations", draws=2)}


def depth(name: str) -> int:
    return DEPTHS.get(name, 2)
