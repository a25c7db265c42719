"""The polynomial programme runs for every method, reproducibly, and lowers its loss."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dither.experiments.polynomial import Config, run, train

SMALL = Config(nodes=6, epochs=1, steps=3, powers=(2.0,), seeds=(0,))


def test_every_method_runs() -> None:
    rows = run(SMALL, Path())["rows"]
    assert [row["method"] for row in rows] == [*SMALL.methods, *SMALL.local]
    assert [row["credit"] for row in rows] == ["global"] * len(SMALL.methods) + ["local"] * len(SMALL.local)
    assert all(0.02 < row["loss"] < 0.4 for row in rows)
    published = {(row["method"], row["credit"]): row["published"] for row in rows}
    assert published["reinmax", "global"] == 0.00427
    assert published["score-function:optimal", "local"] == 0.00356 and published["score-function:optimal", "global"] == 0.0327
    assert all(row["seeds"] == 1 and row["loss_sd"] is None for row in rows)


def test_a_run_is_its_seed() -> None:
    assert train(SMALL, "reinmax", 2.0, 1) == train(SMALL, "reinmax", 2.0, 1) != train(SMALL, "reinmax", 2.0, 2)


def test_local_cost_learns_faster_than_global() -> None:
    quick = replace(SMALL, nodes=32, epochs=2, steps=60, lr=0.05)
    local, shared = (train(quick, "score-function:optimal", 2.0, 0, local=local) for local in (True, False))
    biased = train(quick, "straight-through", 2.0, 0)
    assert local < 0.6 * shared and local < 0.2 * biased


def test_unknown_methods_are_named() -> None:
    with pytest.raises(ValueError, match=r"no estimator 'magic'; known are .*straight-through"):
        run(replace(SMALL, methods=("magic",)), Path())


def test_threads_are_set() -> None:
    run(replace(SMALL, methods=("reinmax",), local=()), Path())
    assert torch.get_num_threads() == 1
