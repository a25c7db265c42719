"""Data-parallel ranks with data, noise and baselines of their own keep the same model and the same estimator."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).parent / "ranks_worker.py"
pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch was built without gloo"
)
CASES = runpy.run_path(str(WORKER))["CASES"]


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str, bool], float]]:
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(folder)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    texts = [(folder / f"rank{rank}.txt").read_text().split() for rank in range(2)]
    return [dict(zip(CASES, map(float, text), strict=True)) for text in texts]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "|".join(map(str, case)))
def test_ranks_keep_the_same_parameters(differences: list[dict[tuple[str, str, bool], float]], case) -> None:
    assert [result[case] for result in differences] == [0.0, 0.0]
