"""Two ranks that share one model's parameters (FSDP) train as one process does."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

WORKER = Path(__file__).parent / "fsdp_worker.py"
pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch was built without gloo"
)


@pytest.mark.long  # half a minute of starting processes; docs/integrations.md shards in one
def test_sharded_training_leads_to_the_weights_of_one_process(tmp_path, two_ranks) -> None:
    worker = runpy.run_path(str(WORKER))
    with two_ranks(WORKER, 2, tmp_path):
        alone = {name: worker["train"](name, 0, 1) for name in worker["ESTIMATORS"]}
    both = [dict(np.load(tmp_path / f"rank{rank}.npz", allow_pickle=False)) for rank in range(2)]
    first = next(iter(alone.values()))
    assert any(not np.allclose(first[0], weights[0]) for weights in alone.values()), "they trained"
    for name, weights in alone.items():
        for i, weight in enumerate(weights):
            for rank in both:
                np.testing.assert_allclose(rank[f"{name}|{i}"], weight, rtol=1e-12, atol=1e-12, err_msg=f"{name} {i}")
