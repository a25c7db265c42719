"""A plug-in is one file and one line: shown on a copy of the library, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the library, to which a plug-in can be added."""
    shutil.copytree(ROOT / "src" / "dither", tmp_path / "dither", ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
    return tmp_path


def run(copy: Path, code: str) -> str:
    """What the code prints, when the copy is the library."""
    environment = os.environ | {"PYTHONPATH": str(copy)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=copy, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def add_line(path: Path, line: str) -> None:
    path.write_text(f"{path.read_text('utf-8')}{line}\n", encoding="utf-8")


ESTIMATOR = """
import dither
from dither import methods, testing
from dither.cli import main

rows = dither.Waver.configurations()
problems = testing.zoo(4, max_bits=3.0, start=1)
print({name: testing.check_estimator(build, problems=problems) for name, build in rows.items()})
assert "waver" in methods.names() and "Waver" in dir(dither) and len(rows) == 2
assert main(["train", "--help"]) == 0
"""


def test_an_estimator_is_one_file_and_one_line(copy: Path) -> None:
    family = copy / "dither" / "estimators" / "antithetic"
    source = (family / "_disarm.py").read_text("utf-8").replace("DisARM", "Waver")
    (family / "_waver.py").write_text(source, encoding="utf-8")
    add_line(family.parent / "__init__.py", "from dither.estimators.antithetic._waver import Waver as Waver")
    printed = run(copy, ESTIMATOR)
    assert "unordered-set" in printed and "waver" in printed.split("--estimator")[1], "the command line lists it"
    assert all(passed >= 9 for passed in eval(printed.splitlines()[0]).values())


NODE = """
import json
import torch, dither
from torch import nn
from dither import exact, methods, testing

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(2, 1), dither.Binomial(2), nn.Linear(1, 1)).double()
x = torch.randn(1, 2, dtype=torch.float64)
closure = lambda: torch.sin(2 * net(x)).sum(1)
table = {}
for method in methods.every():
    name = method.partition(":")[0]
    if name == "auto":
        continue
    try:
        estimator = methods.build(method, net, samples=1)
        estimator(closure).backward()
    except TypeError as refused:
        table[method] = str(refused)
        continue
    table[method] = "runs"
    if estimator.unbiased:
        testing.assert_unbiased(estimator, net, closure)
        table[method] = "unbiased"
print(json.dumps(table))
"""
TAKEN = [
    "blend", "blend:control-variate", "deterministic", "double-cv", "exact", "finite-difference", "forward-only",
    "forward-only:mean", "forward-only:optimal", "forward-only:leave-one-out", "forward-only:bits", "local-expectation",
    "muprop", "mve", "node-perturbation", "nvil", "reinmax", "score-function", "score-function:mean",
    "score-function:optimal", "score-function:leave-one-out", "spsa", "spsa:normal", "straight-through",
    "straight-through:identity", "straight-through:clipped", "sum-and-sample", "vimco",
]  # fmt: skip
NEEDS = {
    "binary": ["arm", "arms", "arms:dirichlet", "disarm", "path-sample-analytic", "rodeo"],
    "one_hot": ["carms", "unordered-set"],
    "relaxation": ["gumbel-rao", "gumbel-softmax", "rebar", "relax"],
}


def test_a_node_is_one_file_and_one_line_and_every_estimator_whose_needs_it_meets_takes_it(copy: Path) -> None:
    nodes = copy / "dither" / "nodes"
    shutil.copy(ROOT / "tests" / "plugins" / "_binomial.py", nodes)
    add_line(nodes / "__init__.py", "from dither.nodes._binomial import Binomial as Binomial")
    table = json.loads(run(copy, NODE))
    assert {method for method, what in table.items() if what in ("runs", "unbiased")} == set(TAKEN)
    for capability, refused in NEEDS.items():
        assert all(f"it needs {capability} (" in table.pop(method) for method in refused)
    biased = {"blend", "deterministic", "finite-difference", "mve", "node-perturbation", "reinmax", "spsa", "spsa:normal"}
    assert {m for m, what in table.items() if what == "runs"} == biased | {m for m in TAKEN if m.startswith("straight")}
