"""Two data-parallel processes train as one does: same noise per example, same gradients, same baselines."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

WORKER = Path(__file__).parent / "ddp_worker.py"
pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch was built without gloo"
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, two_ranks):
    """What each of two processes stored, and what one process alone keeps."""
    folder = tmp_path_factory.mktemp("ranks")
    with two_ranks(WORKER, 2, folder):
        worker = runpy.run_path(str(WORKER))
        alone: dict[str, np.ndarray] = {}
        for name in worker["ESTIMATORS"]:
            alone |= worker["train"](name, 0, 1)
    both = [dict(np.load(folder / f"rank{rank}.npz", allow_pickle=False)) for rank in range(2)]
    return [*both, {key.replace("/", "|"): value for key, value in alone.items()}]


@pytest.mark.parametrize(
    "name",
    [
        "straight-through",
        "score",
        "score-mean",
        "score-optimal",
        "score-leave-one-out",
        "score-optimal, K=3, loop",
        "learned baseline",
        "learned baseline, lazy",
        "node perturbation",
        "SPSA",
        "SPSA, normal, K=4",
        "finite difference",
        "rows",
    ],
)
def test_two_processes_equal_one(ranks, name):
    first, second, alone = ({k: v for k, v in results.items() if k.startswith(f"{name}|")} for results in ranks)
    assert len(first) >= 4 * 6 and first.keys() == second.keys() == alone.keys()
    assert any("baseline" in key for key in first) == any(kind in name for kind in ("mean", "optimal", "baseline"))
    for key, value in alone.items():
        assert np.array_equal(first[key], second[key]), key  # the state of a baseline too
        np.testing.assert_allclose(first[key], value, rtol=1e-12, atol=1e-12, err_msg=key)
    assert max(np.abs(value).max() for key, value in alone.items() if "gradient" in key) > 1e-3


def test_lengths_may_differ_between_ranks(ranks):
    first, second = ({k: v for k, v in results.items() if k.startswith("lengths|")} for results in ranks[:2])
    assert len(first) == 2 and all(v.shape == (1, 2) for v in first.values())
    assert first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first)
