"""The programs in examples/: each runs by each of its estimators, and in plain torch; and is as its page says.

A new program needs no new test: every file of the folder is found.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from pathlib import Path

import pytest
import torch

import dither
from dither.experiments.examples.programs import load, load_plain, plain, plain_node, programs

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = programs(folder=ROOT / "examples")
STEPS = 3
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler's own
each_program = pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@each_program
def test_a_program_trains_by_each_of_its_estimators_and_in_plain_torch(path):
    module = load(path)
    short = {"steps": STEPS, "seed": 1}
    if "backend" in inspect.signature(module.train).parameters:
        short["backend"] = "eager"  # compilers take longer than three steps
    figures = {name: module.train(make, **short) for name, make in module.ESTIMATORS.items()}
    other = load_plain(path)
    figures["plain torch"] = other.train(plain(), node=plain_node(other), **short)
    for name, own in figures.items():
        assert list(own) == list(figures["plain torch"]), name
        assert all(isinstance(value, float) and math.isfinite(value) for value in own.values()), (name, own)
    name, make = list(module.ESTIMATORS.items())[1]
    assert module.train(make, **short) == figures[name], "the seed governs all"


@each_program
def test_a_program_compares_straight_through_with_two_unbiased_estimators(path):
    module = load(path)
    estimators = [make(module.build()) for make in module.ESTIMATORS.values()]
    if isinstance(estimators[0], dither.Episodes):  # of which those that do not credit all decisions are straight-through
        assert [len(e.credited) < len(e.nodes) for e in estimators] == [True, *[False] * (len(estimators) - 1)]
    else:
        assert isinstance(estimators[0], dither.StraightThrough)
        assert sum(e.unbiased for e in estimators) >= 2
    assert len(estimators) >= 3


@each_program
def test_a_program_is_short_and_changes_one_line_between_estimators(path):
    text = path.read_text("utf-8")
    assert 40 <= len(text.splitlines()) <= 80
    assert len(re.findall(r"= make\(", text)) == 1 and "# the only line that changes between estimators" in text
    assert ast.get_docstring(ast.parse(text))
    private = [n.attr for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Attribute) and re.match(r"_(?!_)", n.attr)]
    imports = [name for name in re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)]
    assert not private and set(imports) <= {
        "torch",
        "dither",
        "sklearn",
        "functools",
        "contextlib",
        "io",
        "math",
        "itertools",
        "pathlib",
    }


@each_program
def test_a_program_has_a_page_that_names_its_command(path):
    page = ROOT / "docs" / "examples" / f"{path.stem.replace('_', '-')}.md"
    assert page.is_file(), f"write {page.relative_to(ROOT)}, and link it from docs/examples/index.md"
    text = page.read_text("utf-8")
    assert f"dither experiment examples --only {path.stem}" in text
    assert f"({page.name})" in (page.parent / "index.md").read_text("utf-8")
    assert f"../../examples/{path.name}" in text
