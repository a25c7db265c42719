"""README, docs and docstrings run as they stand."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import dither

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
MODULES = sorted(m.name for m in pkgutil.walk_packages(dither.__path__, "dither.") if not m.name.endswith("__main__"))


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=lambda p: p.name)
def test_examples_of_a_page_run(page: Path) -> None:
    torch.manual_seed(0)
    names: dict = {}
    for block in BLOCK.findall(page.read_text()):
        exec(compile(block, page.name, "exec"), names)  # a page's blocks are one session
    if page.name == "README.md":
        test = dither.data.digits().test
        accuracy = float((names["net"](test.x).argmax(1) == test.y).float().mean())
        assert accuracy > 0.87, "the README's network has learned"  # .89 to .93 over eight seeds, with one sample
        assert "straight-through" in str(names["report"])


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples_run(module: str) -> None:
    if "_triton_" in module:
        pytest.importorskip("triton", reason="these modules are loaded for tensors on a GPU only")
    torch.manual_seed(0)
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_links_within_the_project_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
