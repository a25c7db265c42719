"""Nothing that is read can run code: no pickle, no eval, no shell. And no trace of one machine is tracked."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "dither"

MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
NAMES = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {"torch.load", "torch.save", "torch.hub.load", "os.system", "os.popen"}
# Reads nothing but what it has just written itself: the copy of an estimator for another process, which it checks.
ROUND_TRIP = {SOURCE / "testing" / "_round_trip.py": "import of pickle"}
KEYWORDS = {"allow_pickle": True, "shell": True}


def aliases(tree: ast.AST) -> dict[str, str]:
    """Local name -> what it stands for: `import numpy as np` gives np -> numpy."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """`np.load` -> "numpy.load" with the file's aliases; "" for anything that is not a plain dotted name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        base = dotted(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    return ""


def is_constant(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def faults(source: str) -> list[str]:
    tree = ast.parse(source)
    names = aliases(tree)
    safe_loads = set()
    violations = []
    for node in ast.walk(tree):  # breadth first: a call is seen before the name that it calls
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            bad = {module.partition(".")[0] for module in modules} & MODULES
            if isinstance(node, ast.ImportFrom):
                bad |= {f"{node.module}.{a.name}" for a in node.names} & ATTRIBUTES
            violations += [f"line {node.lineno}: import of {module}" for module in sorted(bad)]
        elif isinstance(node, ast.Call):
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            if dotted(node.func, names) == "numpy.load" and is_constant(keywords.get("allow_pickle"), False):
                safe_loads.add(node.func)
            violations += [
                f"line {node.lineno}: {name}= must be the constant {not bad}"
                for name, bad in KEYWORDS.items()
                if name in keywords and not is_constant(keywords[name], not bad)
            ]
        elif isinstance(node, ast.Name | ast.Attribute):
            name = dotted(node, names)
            if name in ATTRIBUTES or (isinstance(node, ast.Name) and name in NAMES):
                violations.append(f"line {node.lineno}: {name}")
            if name == "numpy.load" and node not in safe_loads:
                violations.append(f"line {node.lineno}: numpy.load without allow_pickle=False")
    return violations


def test_source_cannot_run_what_it_reads():
    violations = [
        f"{path.relative_to(ROOT)}, {fault}"
        for path in sorted(SOURCE.rglob("*.py"))
        for fault in faults(path.read_text("utf-8"))
        if ROUND_TRIP.get(path) != fault.partition(": ")[2]
    ]
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    import marshal as m",
        "from yaml import safe_load",
        "import torch\ntorch.load('x')",
        "import torch as t\nt.save({}, 'x')",
        "from torch import load",
        "import torch\nread = torch.load",
        "eval('1')",
        "run = exec",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=flag)",
        "from numpy import load\nload('x')",
        "import numpy as np\nread = np.load",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import os\nos.system('ls')",
        "from os import system",
    ],
)
def test_the_test_sees(source):
    assert faults(source)


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "import torch\ntorch.compile(f)",
        "import numpy as np\nwith np.load('x', allow_pickle=False) as z:\n    pass",
        "import re\nre.compile('a')",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
    ],
)
def test_the_test_lets_pass(source):
    assert not faults(source)


# Written in two pieces so that this file does not find itself.
HOMES = "|".join(["wo" + "rk", "ho" + "me", "ro" + "ot", "Us" + "ers"])
MACHINE_PATH = re.compile(rf"(?<![\w.~$}}>)])/(?:{HOMES})/\w")
REGISTRIES = [f"{host}.org" for host in ("pypi", "pythonhosted", "npmjs", "deb.debian", "download.pytorch")]


def traces(text: str) -> list[str]:
    return MACHINE_PATH.findall(text) + [host for host in REGISTRIES if host in text]


def test_no_machine_paths_or_registry_hosts_in_tracked_files():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout, so nothing says which files are tracked")
    violations = []
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if not name or not path.is_file() or b"\0" in (content := path.read_bytes()):
            continue  # deleted but not yet committed, or binary
        violations += [f"{name}: {trace}" for trace in traces(content.decode("utf-8", "replace"))]
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize("text", ["cd /wo" + "rk/main", "'/ho" + "me/ann/x'", "-i https://pypi" + ".org/simple"])
def test_traces_are_seen(text):
    assert traces(text)


def test_other_paths_are_no_traces():
    assert not traces("../shared/data, ~/.cache/dither, https://example.com/home/x, $HOME/src/x")
