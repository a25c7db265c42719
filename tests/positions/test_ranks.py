"""Data-parallel ranks with data, noise and baselines of their own keep the same model and the same estimator."""

import runpy
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).parent / "ranks_worker.py"
pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch was built without gloo"
)
CASES = runpy.run_path(str(WORKER))["CASES"]


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory, two_ranks) -> list[dict[tuple[str, str, bool], float]]:
    folder = tmp_path_factory.mktemp("ranks")
    with two_ranks(WORKER, folder):
        pass
    texts = [(folder / f"rank{rank}.txt").read_text().split() for rank in range(2)]
    return [dict(zip(CASES, map(float, text), strict=True)) for text in texts]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "|".join(map(str, case)))
def test_ranks_keep_the_same_parameters(differences: list[dict[tuple[str, str, bool], float]], case) -> None:
    assert [result[case] for result in differences] == [0.0, 0.0]
