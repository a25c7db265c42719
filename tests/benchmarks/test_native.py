"""The benchmarks of the native kernels run, on sizes that take no time, and report what the docs read from them."""

import json

import pytest
import torch

from dither.benchmarks import forward_only, layer, memory, node, samples, sampling, step
from dither.cli import main
from dither.kernels import path

SMALL = {
    "sampling": (sampling, sampling.Config(batch_size=8, units=160, repeats=2)),
    "layer": (layer, layer.Config(inputs=8, units=20, batch_sizes=(4,), repeats=2)),
    "forward-only": (forward_only, forward_only.Config(sizes=((9, 20, 30),), repeats=2)),
    "step": (step, step.Config(depths=(3,), width=20, batch_size=8, repeats=2)),
    "memory": (memory, memory.Config(depths=(4,), width=64, batch_size=16)),
    "node": (node, node.Config(batch_sizes=(2,), units=20, repeats=2)),
}


@pytest.fixture(autouse=True)
def settings_afterwards():
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])


@pytest.mark.parametrize("name", SMALL)
def test_rows(name):
    module, config = SMALL[name]
    rows = module.run(config, None, lambda text: None)["rows"]
    assert all(isinstance(row, dict) and row for row in rows)
    names = {row["implementation"] for row in rows}
    expected = {
        "sampling": {"dither, packed", "torch.randn_like", "copy_gb_s"} | ({"fma_gflop_s"} if path() != "torch" else set()),
        "layer": {"product", "sigmoid layer", "torch rand < p", "dither"},
        "forward-only": {"packed", "dense bfloat16"},
        "step": {"torch, bernoulli", "forward-only:mean", "forward-only:mean,bits"},
        "memory": {"forward-only:mean,bits", "torch, rand < p"},
        "node": {"by hand", "dither"},
    }
    assert expected[name] <= names


@pytest.mark.parametrize(("method", "bottleneck"), [("score-function:optimal", False), ("forward-only:optimal", True)])
def test_samples_are_run_in_each_way(method, bottleneck):
    config = samples.Config(samples=(1, 2), method=method, hidden=20, bottleneck=bottleneck, batch_size=4, repeats=2)
    rows = samples.run(config, None, lambda text: None)["rows"]
    ways = ["one vmap", "a loop", *(["repeated rows"] if method.startswith("score") else [])]
    assert [(row["samples"], row["run_as"]) for row in rows] == [(1, "one vmap"), *((2, way) for way in ways)]
    assert rows[0]["times_one_sample"] == 1 and all(row["min"] <= row["milliseconds"] for row in rows)
    with pytest.raises(ValueError, match="samples is"):
        samples.run(samples.Config(samples=(2,)), None)


def test_memory_counts_what_is_kept():
    rows = memory.run(memory.Config(depths=(4,), width=64, batch_size=16), None, lambda text: None)["rows"]
    kib = {row["implementation"]: row["activations_kib"] for row in rows}
    # Straight-through keeps at least the hard values that the next product's gradient needs: 3 layers of 16 x 64.
    assert kib["torch, rand < p"] > 3 * 16 * 64 * 4 / 1024 > 4 * kib["forward-only:mean,bits"]


def test_a_row_is_a_json_line_on_stdout(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DITHER_RUNS", str(tmp_path))
    assert main(["bench", "node", "--batch-sizes", "2", "--units", "16", "--repeats", "2", "--json", "--quiet"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["implementation"] for line in lines] == [*["by hand", "dither"] * 2, "without a node"]
    assert [line["calls"] for line in lines] == [1, 1, 16, 16, 16]
