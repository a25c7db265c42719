"""The programs of the folder `examples/`, each trained by several estimators, audited, and timed beside plain torch.

Such a program is a file with

    def build(node=dither.Bernoulli, ...) -> nn.Module         the net, whose hard units are `node()`
    def train(make=..., *, node=dither.Bernoulli, steps=..., seed=0) -> dict[str, float]
    ESTIMATORS: dict[str, Build]                               what to compare, by name; the first is straight-through

`train` seeds torch, builds the net, makes the estimator by `make(net)`, and returns figures of merit on held-out data, first
the one that counts. "plain torch" is the same program with nodes and a loss that know nothing of dither: straight-through,
written out in `programs.PLAIN` and `programs.plain`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from types import ModuleType
from typing import Any

import torch

import dither
from dither import files, methods
from dither.experiments.core import cache
from dither.experiments.core.summary import mean_and_sd
from dither.experiments.examples.programs import hooked, load, load_plain, plain, plain_node, programs
from dither.experiments.examples.turns import Tick, in_turn, per_step
from dither.tables import Progress, Result, Row

PLAIN_TORCH = "plain torch"
WARM_UP = 5  # steps that are not timed: the first ones look at the closure


@dataclass(frozen=True)
class Config:
    """The programs in examples/: trained by several estimators, audited, timed beside plain torch."""

    only: tuple[str, ...] = ()
    """programs, by the names of their files; all of them where none is named"""
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 0
    """of training; 0: as many as each program has by itself"""
    draws: int = 200
    """of the audit, of each estimator; 0: no audit"""
    reference_draws: int = 300
    """of the audit's reference, where outcomes are too many to sum over"""
    audit_after: int = 100
    """steps of straight-through training before the audit"""
    turns: int = 100
    """timed steps of each estimator; 0: none"""
    threads: int = 1


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """Train, audit and time every program: a row for each program and estimator.

    Each part is cached in `folder`, and not repeated while its program is the same.
    """
    torch.set_num_threads(config.threads)
    rows: list[Row] = []
    seconds = 0.0
    for path in programs(config.only):
        cells = _trained(config, path, folder, progress)
        rows += _rows(config, path, cells, _timed(config, path, folder, progress), _audited(config, path, folder, progress))
        seconds += sum(cell["seconds"] for cell in cells)
    return {"rows": rows, "seconds": round(seconds, 1)}


# --- the parts ----------------------------------------------------------------------------------------------------------
def _settings(config: Config, path: Path, **own: Any) -> Row:
    """What a part depends on, the program's text among it."""
    return {"program": path.stem, "sha256": files.sha256(path), "threads": config.threads, **own}


def _trained(config: Config, path: Path, folder: Path, progress: Progress) -> list[Row]:
    """A training of each estimator and seed."""
    module, cells = load(path), []
    for seed in config.seeds:
        for name in [*module.ESTIMATORS, PLAIN_TORCH]:
            settings = _settings(config, path, estimator=name, seed=seed, steps=config.steps)
            file = folder / f"{path.stem}-{methods.slug(name)}-{seed}.json"
            cell = cache.read(file, settings)
            if cell is None:
                began = time.perf_counter()
                figures = _train(path, module, name, **_steps(config), seed=seed)
                cell = {"estimator": name, "seconds": round(time.perf_counter() - began, 1), "figures": figures}
                progress(f"{path.stem} by {name}, seed {seed}: {figures} in {cell['seconds']:.0f} s")
                cache.write(file, settings, cell)
            cells.append(cell)
    return cells


def _train(path: Path, module: ModuleType, name: str, **own: Any) -> dict[str, float]:
    if name != PLAIN_TORCH:
        return module.train(module.ESTIMATORS[name], **own)
    other = load_plain(path)
    return other.train(plain(), node=plain_node(other), **own)


def _steps(config: Config) -> dict[str, int]:
    return {"steps": config.steps} if config.steps else {}


def _timed(config: Config, path: Path, folder: Path, progress: Progress) -> Row:
    """{estimator: [milliseconds of each step]}, the steps of all in turn; of a program that calls its estimator on no closure
    no estimator."""
    settings, file = _settings(config, path, turns=config.turns), folder / f"{path.stem}-times.json"
    if not config.turns:
        return {}
    if cached := cache.read(file, settings):
        return cached
    module, steps = load(path), config.turns + WARM_UP + 1

    def training(name: str) -> Callable[[Tick], object]:
        if name == PLAIN_TORCH:
            other = load_plain(path)
            return lambda tick: other.train(plain(tick), node=plain_node(other), steps=steps)
        return lambda tick: module.train(hooked(module.ESTIMATORS[name], lambda *_: tick()), steps=steps)

    ticks = in_turn({name: training(name) for name in (PLAIN_TORCH, *module.ESTIMATORS)})
    times: Row = {name: own for name, ticked in ticks.items() if (own := per_step(ticked, steps, WARM_UP))}
    progress(f"{path.stem}: timed {', '.join(times) or 'nothing, as it calls no estimator on a closure'}")
    return cache.write(file, settings, times)


class _Audited(Exception):  # ends a training
    pass


def _audited(config: Config, path: Path, folder: Path, progress: Progress) -> Row:
    """{estimator: its row of the audit}, of the closure that the program has after some steps."""
    own = {"draws": config.draws, "reference_draws": config.reference_draws, "after": config.audit_after}
    settings, file = _settings(config, path, **own), folder / f"{path.stem}-audit.json"
    if not config.draws:
        return {}
    if cached := cache.read(file, settings):
        return cached
    module, audits, calls = load(path), {}, 0

    def look(estimator: Any, arguments: tuple[Any, ...]) -> None:
        nonlocal calls
        calls += 1
        if calls > config.audit_after and arguments:
            draws, of_reference = config.draws, config.reference_draws
            report = dither.audit(estimator.model, arguments[0], module.ESTIMATORS, draws=draws, reference_draws=of_reference)
            audits.update({row["estimator"]: row for row in report.rows if row["parameter"] == "overall"})
            raise _Audited

    first = next(iter(module.ESTIMATORS.values()))
    with contextlib.suppress(_Audited):
        module.train(hooked(first, look), steps=config.audit_after + 1)
    progress(f"{path.stem}: audited {', '.join(audits) or 'nothing, as it calls no estimator on a closure'}")
    return cache.write(file, settings, audits)


# --- the table ----------------------------------------------------------------------------------------------------------
def _rows(config: Config, path: Path, cells: list[Row], times: Row, audits: Row) -> list[Row]:
    """A row for each estimator: its figures over the seeds, the time of a step, the ratio to plain torch's, the audit's columns
    relative to the length of the gradient."""
    rows = []
    for name in dict.fromkeys(cell["estimator"] for cell in cells):
        own = [cell for cell in cells if cell["estimator"] == name]
        merit = next(iter(own[0]["figures"]))
        row: Row = {"program": path.stem, "estimator": name, "merit": merit.replace("_", " ")}
        row |= mean_and_sd("value", [cell["figures"][merit] for cell in own]) | {"seeds": len(own)}
        row["milliseconds"] = round(median(times[name]), 3) if name in times else None
        row["ratio"] = round(median(a / b for a, b in zip(times[name], times[PLAIN_TORCH], strict=True)), 3) if times else None
        row["seconds"] = round(fmean(cell["seconds"] for cell in own), 1)
        row |= _relative(audits.get(name))
        for figure in own[0]["figures"]:
            row |= mean_and_sd(figure, [cell["figures"][figure] for cell in own])
        rows.append(row)
    return rows


def _relative(audit: Row | None) -> Row:
    """bias, and what it must exceed to be told from none; noise, the root of the variance of a draw; all divided by the norm of
    the reference gradient."""
    if audit is None:
        return {"unbiased": None, "bias": None, "bias_floor": None, "noise": None, "cosine": None, "evaluations": None}
    norm = audit["reference_norm"] or float("nan")
    row: Row = {"unbiased": audit["unbiased"], "bias": audit["bias"] / norm, "bias_floor": audit["bias_se"] / norm}
    row |= {"noise": audit["variance"] ** 0.5 / norm, "cosine": audit["cosine"], "evaluations": audit["evaluations"]}
    return row if norm == norm else {**row, "bias": None, "bias_floor": None, "noise": None}
