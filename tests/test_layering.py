"""Imports point down only, between rooms and between files; what is private stays at home.

Every import statement counts, in functions and under TYPE_CHECKING too.
"""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "dither"

# From the top down; the items of one line do not know each other.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"experiments", "benchmarks"},
    {"methods"},  # how estimators are spelled
    {"__init__", "_api"},  # `import dither`: the public names, for those above this line
    {"training"},
    {"models"},
    {"testing"},
    {"auditing"},
    {"estimators"},
    {"chains"},
    {"exact", "homeostasis", "reconstruction"},
    {"corruption"},
    {"nodes"},
    {"cuda_graphs", "functional"},
    {"noise"},
    {"kernels"},
    {"scoped", "settings"},
]
# Beside the house: each is usable alone. `files` knows nothing of dither; the others may write through it.
BESIDE = {"data": {"files"}, "metrics": {"files"}, "plots": {"files"}, "results": {"files"}, "tables": set(), "files": set()}
# Who may use what stands beside. The rest, models above all, must never read files.
USERS_OF_BESIDE = {
    "cli": set(BESIDE),
    "experiments": set(BESIDE),
    "benchmarks": set(BESIDE),
    "_api": set(BESIDE),
    "training": set(BESIDE),
    "auditing": {"plots"},  # a report draws itself
}

DEPTH = {item: depth for depth, layer in enumerate(LAYERS) for item in layer}


def item_of(path: Path, root: Path = SOURCE) -> str:
    """`src/dither/nodes/_bernoulli.py` -> `nodes`: the layer item that a file belongs to."""
    return path.relative_to(root).with_suffix("").parts[0]


def imported_modules(tree: ast.AST, package: str):
    """Yield (line, dotted module) for everything that the tree imports, relative imports resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def imported_item(module: str, items: set[str]) -> str | None:
    """The layer item that a dotted name means: None outside dither, `__init__` for a public name."""
    root, _, rest = module.partition(".")
    if root != "dither":
        return None
    first = rest.partition(".")[0]
    return first if first in items else "__init__"


def allowed(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    if importer == "__init__":
        return imported == "_api"
    if importer in BESIDE:
        return imported in BESIDE[importer]
    if imported in BESIDE:
        return imported in USERS_OF_BESIDE.get(importer, set())
    return DEPTH[importer] < DEPTH[imported]


def violations(root: Path) -> list[str]:
    files = sorted(root.rglob("*.py"))
    items = {item_of(path, root) for path in files} | set(DEPTH) | set(BESIDE)
    actual = []
    for path in files:
        importer, where = item_of(path, root), path.relative_to(root.parent)
        if importer not in DEPTH and importer not in BESIDE:
            actual.append(f"{where}: {importer!r} has no place; give it one in LAYERS or BESIDE")
            continue
        package = ".".join(where.parent.parts)
        for line, module in imported_modules(ast.parse(path.read_text("utf-8")), package):
            imported = imported_item(module, items)
            if imported is None or imported not in DEPTH.keys() | BESIDE.keys():
                continue  # outside dither, or an item without a place, which is reported where it lives
            if not allowed(importer, imported):
                actual.append(f"{where}:{line}: {importer!r} may not import {module!r} (it is not below)")
    return actual


def test_imports_point_down_only():
    assert not violations(SOURCE), "\n".join(violations(SOURCE))


@pytest.mark.parametrize(
    ("path", "source", "caught"),
    [
        ("nodes/_a.py", "from dither.functional import f", False),
        ("nodes/_a.py", "from . import _b", False),
        ("nodes/_a.py", "from dither.estimators import X", True),
        ("nodes/_a.py", "from ..estimators import X", True),
        ("nodes/_a.py", "def f():\n    import dither.training.loop", True),
        ("nodes/_a.py", "if TYPE_CHECKING:\n    from dither.models import X", True),
        ("nodes/_a.py", "importlib.import_module('dither.models')", True),
        ("nodes/_a.py", "import dither", True),
        ("nodes/_a.py", "from dither import Bernoulli", True),
        ("exact.py", "import dither.homeostasis", True),
        ("models/mlp.py", "from dither.data import digits", True),
        ("models/mlp.py", "from dither import files", True),
        ("training/loop.py", "from dither import files, models", False),
        ("training/loop.py", "import dither", True),
        ("experiments/a.py", "import dither\nfrom dither import Bernoulli, data", False),
        ("experiments/a.py", "from dither.cli import out", True),
        ("experiments/a.py", "from dither.benchmarks import timing", True),
        ("benchmarks/a.py", "from dither.experiments import denoising", True),
        ("auditing/_report.py", "from dither.plots import audit", False),
        ("data/_idx.py", "from dither.files import sha256", False),
        ("data/_idx.py", "from dither import noise", True),
        ("files.py", "from dither import data", True),
        ("attic.py", "", True),
    ],
)
def test_the_test_sees(tmp_path, path, source, caught):
    file = tmp_path / "dither" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    assert bool(violations(tmp_path / "dither")) == caught


# --- between files ------------------------------------------------------------------------------------------------------------
def files_of(root: Path) -> dict[str, Path]:
    """dotted module -> file."""
    return {".".join(p.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__"): p for p in root.rglob("*.py")}


def imported_files(path: Path, root: Path, modules: dict[str, Path]) -> set[str]:
    """The modules whose files this file's import statements name. A name taken from a package is the package's own."""
    package = ".".join(path.relative_to(root.parent).parent.parts)
    named = set()
    for _, module in imported_modules(ast.parse(path.read_text("utf-8")), package):
        while module and module not in modules:
            module = module.rpartition(".")[0]
        named.add(module)
    return named - {"", "dither"}


def loops(root: Path) -> list[list[str]]:
    """Groups of files that import each other, directly or through others."""
    modules = files_of(root)
    reach = {name: imported_files(path, root, modules) - {name} for name, path in modules.items()}
    for middle in modules:
        for name in modules:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    return sorted({tuple(sorted(o for o in reach[n] if n in reach[o])) for n in modules if n in reach[n]})


def private_imports(root: Path) -> list[str]:
    """Imports of another room's private module or name."""
    seen = []
    for name, path in files_of(root).items():
        package = ".".join(path.relative_to(root.parent).parent.parts)
        for line, module in imported_modules(ast.parse(path.read_text("utf-8")), package):
            parts = module.split(".")
            foreign = parts[0] == "dither" and len(parts) > 2 and parts[1] != [*name.split("."), ""][1]
            if foreign and any(part.startswith("_") and not part.startswith("__") for part in parts[2:]):
                seen.append(f"{name}:{line}: {module}")
    return seen


def test_no_files_import_each_other():
    assert not loops(SOURCE), loops(SOURCE)


def test_nothing_private_is_imported_by_another_room():
    assert not private_imports(SOURCE), "\n".join(private_imports(SOURCE))


@pytest.mark.parametrize(
    ("files", "groups"),
    [({"a/_x": "from dither.a._y import f", "a/_y": "import torch"}, 0),
     ({"a/_x": "from dither.a._y import f", "a/_y": "def g():\n    from dither.a._x import h"}, 1),
     ({"a/_x": "from . import _y", "a/_y": "if TYPE_CHECKING:\n    from dither.b import z", "b": "import dither.a._x"}, 1)],
)  # fmt: skip
def test_loops_are_seen(tmp_path, files, groups):
    for name, source in files.items():
        path = tmp_path / "dither" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    assert len(loops(tmp_path / "dither")) == groups


@pytest.mark.parametrize(
    ("source", "caught"),
    [("from dither.nodes._bernoulli import Bernoulli", True), ("from dither.nodes.node import _FIRST", True),
     ("from dither.models._products import x", False), ("from dither.nodes import Node", False),
     ("from dither import _api", False)],
)  # fmt: skip
def test_private_imports_are_seen(tmp_path, source, caught):
    path = tmp_path / "dither" / "models" / "a.py"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert bool(private_imports(tmp_path / "dither")) == caught
