"""The benchmarks of the native kernels run, on sizes that take no time, and report what the docs read from them."""

import json

import pytest
import torch

from dither.cli import main
from dither.experiments import bench_forward_only, bench_layer, bench_memory, bench_node, bench_sampling, bench_step
from dither.kernels import path

SMALL = {
    "sampling": (bench_sampling, bench_sampling.Config(batch_size=8, units=160, repeats=2)),
    "layer": (bench_layer, bench_layer.Config(inputs=8, units=20, batch_sizes=(4,), repeats=2)),
    "forward-only": (bench_forward_only, bench_forward_only.Config(sizes=((9, 20, 30),), repeats=2)),
    "step": (bench_step, bench_step.Config(depths=(3,), width=20, batch_size=8, repeats=2)),
    "memory": (bench_memory, bench_memory.Config(depths=(4,), width=64, batch_size=16)),
    "node": (bench_node, bench_node.Config(batch_sizes=(2,), units=20, repeats=2)),
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
        "step": {"torch, bernoulli", "ForwardOnly", "ForwardOnly, bits"},
        "memory": {"ForwardOnly, bits", "torch, rand < p"},
        "node": {"by hand", "dither"},
    }
    assert expected[name] <= names


def test_memory_counts_what_is_kept():
    rows = bench_memory.run(bench_memory.Config(depths=(4,), width=64, batch_size=16), None, lambda text: None)["rows"]
    kept = {row["implementation"]: row["activations_kib"] for row in rows}
    # Straight-through keeps at least the hard values that the next product's gradient needs: 3 layers of 16 x 64 floats.
    assert kept["torch, rand < p"] > 3 * 16 * 64 * 4 / 1024 > 4 * kept["ForwardOnly, bits"]


def test_a_row_is_a_json_line_on_stdout(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DITHER_RUNS", str(tmp_path))
    assert main(["bench", "node", "--batch-sizes", "2", "--units", "16", "--repeats", "2", "--json", "--quiet"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["implementation"] for line in lines] == ["by hand", "dither"]
