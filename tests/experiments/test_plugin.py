"""Adding an experiment takes one file and one line (and its page): shown in a copy of the source."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dither

SOURCE = Path(dither.__file__).parent
COIN = '''"""How often a binary unit is 1."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

import dither
from dither.tables import Progress, Result


@dataclass(frozen=True)
class Config:
    """How often a binary unit is 1."""

    samples: int = 1000
    seed: int = 0


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    torch.manual_seed(config.seed)
    share = float(dither.Bernoulli()(torch.zeros(config.samples, 1)).mean())
    progress(f"share {share:.3f}")
    return {"rows": [{"samples": config.samples, "share": share}]}
'''
LINE = '    "coin": ("dither.experiments.coin", "how often a binary unit is 1"),\n'


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source with one experiment more."""
    root = tmp_path_factory.mktemp("source")
    shutil.copytree(SOURCE, root / "dither")
    (root / "dither" / "experiments" / "coin.py").write_text(COIN)
    table = root / "dither" / "cli" / "experiment.py"
    head, start, rest = table.read_text().partition("EXPERIMENTS = {\n")
    assert start, "the table is where it was"
    table.write_text(head + start + LINE + rest)
    return root


def call(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(copy), "DITHER_RUNS": str(copy / "runs")}
    command = [sys.executable, "-m", "dither", "experiment", *arguments]
    return subprocess.run(command, env=environment, cwd=copy, capture_output=True, text=True, check=True)


def test_a_new_experiment_is_listed(copy: Path) -> None:
    listed = [json.loads(line) for line in call(copy, "list", "--json").stdout.splitlines()]
    assert {"name": "coin", "about": "how often a binary unit is 1"} in listed and len(listed) > 10


def test_a_new_experiment_runs_and_keeps_its_result(copy: Path) -> None:
    done = call(copy, "coin", "--samples", "500", "--json")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"samples": 500, "share": pytest.approx(0.5, abs=0.1)}]
    assert "share 0." in done.stderr
    payload = json.loads((copy / "runs" / "coin" / "coin.json").read_text())
    assert payload["command"] == "dither experiment coin --samples 500" and payload["config"] == {"samples": 500, "seed": 0}
