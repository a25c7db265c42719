"""README, docs and docstrings run as they stand, and their links lead somewhere."""

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
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^):]+)\)")  # a path, with or without an anchor; no URL
MODULES = sorted(m.name for m in pkgutil.walk_packages(dither.__path__, "dither.") if not m.name.endswith("__main__"))


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


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


def targets(page: Path) -> list[tuple[Path, str]]:
    """(file, anchor) of every link within the project; an anchor alone means the page itself."""
    links = [link.partition("#")[::2] for link in LINK.findall(page.read_text())]
    return [((page.parent / path).resolve() if path else page, anchor) for path, anchor in links]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target, anchor in targets(page):
        assert target.exists(), f"{name(page)} links to {target}"
        assert not anchor or anchor in anchors(target), f"{name(page)} links to #{anchor}, which {name(target)} does not have"


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    reached, new = set(), {index}
    while new:
        reached |= new
        new = {target for page in new for target, _ in targets(page) if target.suffix == ".md"} - reached
    assert [name(page) for page in PAGES if page not in reached] == [], "link these pages from docs/index.md"
    assert index in {target for target, _ in targets(ROOT / "README.md")}, "README links to docs/index.md"


def test_the_index_names_every_package_that_users_import() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    modules = {m.name for m in pkgutil.iter_modules(dither.__path__) if not m.name.startswith("_")}
    of_the_house = {
        "benchmarks",
        "cli",
        "experiments",
        "files",
        "scoped",
        "settings",
        "tables",
    }  # commands, and what only dither uses
    assert [name for name in sorted(modules - of_the_house) if f"`{name}`" not in index.partition("## Every name")[2]] == [
        "estimators",
        "nodes",
    ], "these two have rows by their kind; name the others in docs/index.md"
