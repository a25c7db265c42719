"""What dither imports is declared: a package that torch happens to bring today may be gone tomorrow."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = [package for extra in DECLARED["optional-dependencies"].values() for package in extra]
PACKAGE = {"PIL": "pillow", "pyro": "pyro-ppl", "storch": "storchastic", "dither_kernels": "dither-kernels"}  # of modules
BROUGHT = {"triton", "_typeshed"}  # by the builds of torch for a GPU, used only there; by type checkers


def imported(source: str) -> set[str]:
    """The packages that are imported, anywhere in the source, but for those of Python itself and dither."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return {PACKAGE.get(name, name) for name in names - set(sys.stdlib_module_names) - {"dither"}}


def declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}


def undeclared(source: str) -> set[str]:
    return imported(source) - declared(DECLARED["dependencies"] + EXTRAS) - BROUGHT


def test_every_import_is_declared():
    files = (ROOT / "src").rglob("*.py")
    assert {str(path): names for path in files if (names := undeclared(path.read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    ("package", "needed"), [("filelock", True), ("jinja2", True), ("pillow", False), ("matplotlib", False)]
)
def test_what_every_run_needs_is_no_extra(package, needed):
    assert (package in declared(DECLARED["dependencies"])) == needed


def test_an_import_that_is_not_declared_is_seen():
    assert undeclared("def f():\n    from sympy.core import x\nimport torch.nn, os") == {"sympy"}
    assert undeclared("from PIL import Image\nfrom . import pandas\nfrom dither import x") == set()
