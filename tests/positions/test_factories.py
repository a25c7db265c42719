"""No factory call of the library depends on `torch.set_default_dtype` or `torch.set_default_device`.

The lint reads src/ as syntax and knows every function of torch that makes a tensor. A call names `dtype=` and `device=`.
A call that means to follow the user's defaults, as the parameters of a layer do, says so: `# ambient: why`.
"""

import ast
from pathlib import Path

import pytest
import torch
from torch.utils._device import _device_constructors

SOURCE = Path(__file__).parents[2] / "src" / "dither"

# What torch.set_default_device intercepts, in torch's own words.
OF_TORCH = {f.__name__ for f in _device_constructors() if getattr(torch, f.__name__, None) is f}
# They take no dtype, or get it from their argument.
WITHOUT_DTYPE = {"from_file", "complex", "polar", "empty_quantized", "nested_tensor"}
# The dtype of the first argument is the dtype of the result where that is a tensor or an array; a number has the default's.
ASKED = OF_TORCH - WITHOUT_DTYPE
# Constructors that follow the default dtype and take no keyword against it.
FORBIDDEN = {"Tensor", "normal", "get_default_dtype", "get_default_device"}
MARK = "# ambient: "


def called(node: ast.Call) -> str | None:
    """The name after `torch.` of a call, else None."""
    f = node.func
    return f.attr if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) and f.value.id == "torch" else None


def missing(node: ast.Call) -> list[str]:
    """What the call leaves to a default of torch."""
    name, given = called(node), {k.arg for k in node.keywords}
    if name in FORBIDDEN:
        return ["a form that names dtype and device"]
    if name == "where" and len(node.args) == 3 and not any(map(maybe_tensor, node.args[1:])):
        return ["a branch that is a tensor: two numbers have the default dtype"]
    if name not in ASKED or given & {"out", None}:  # None: keywords from a dictionary, which pyright checks
        return []
    return [f"{key}=" for key in ("dtype", "device") if key not in given]


def maybe_tensor(node: ast.expr) -> bool:
    """Whether an expression may be a tensor: anything but a number, its negative, or a constant like torch.inf."""
    if isinstance(node, ast.UnaryOp):
        return maybe_tensor(node.operand)
    constant = isinstance(node, ast.Attribute) and node.attr in ("inf", "nan", "pi", "e")
    return not (isinstance(node, ast.Constant) or constant)


def faults(text: str) -> list[str]:
    lines = text.splitlines()
    faulty = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            faulty += [f"{node.lineno}: import torch, not {a.name} from it" for a in node.names if a.name in ASKED]
        if not isinstance(node, ast.Call) or not (left := missing(node)):
            continue
        span = lines[max(node.lineno - 2, 0) : node.end_lineno]
        if not any(MARK in line for line in span):
            faulty.append(f"{node.lineno}: torch.{called(node)} leaves {' and '.join(left)} to torch's defaults")
    return faulty


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_factory_call_depends_on_a_default(path):
    faulty = faults(path.read_text())
    assert not faulty, f"name dtype= and device=, or write '{MARK}why': {path.relative_to(SOURCE)} {faulty}"


def test_the_lint_knows_the_factories():
    assert len(FILES) > 200
    assert {"zeros", "tensor", "arange", "as_tensor", "eye", "full", "linspace", "randint", "rand", "randperm"} <= ASKED


@pytest.mark.parametrize(
    "code",
    [
        "torch.zeros(())", "torch.tensor(0)", "torch.tensor(0, dtype=torch.int64)", "torch.arange(3, device=x.device)",
        "torch.as_tensor(0.5)", "torch.eye(3)", "torch.empty(2, 3)", "torch.full((), 1.0)", "torch.linspace(0, 1, 5)",
        "torch.randint(3, ())", "torch.randperm(3)", "torch.where(m, 0.0, -torch.inf)", "torch.Tensor([1])",
        "torch.normal(0.0, 1.0, (2,))", "from torch import zeros",
    ],
)  # fmt: skip
def test_the_lint_catches(code):
    assert faults(code)


@pytest.mark.parametrize(
    "code",
    [
        "torch.zeros((), dtype=d, device=e)", "torch.zeros_like(x)", "x.new_zeros(3)", "torch.where(m, 0.0, x)",
        "torch.empty(3)  # ambient: the parameters of a layer follow the user's defaults", "torch.rand(3, out=x)",
    ],
)  # fmt: skip
def test_the_lint_lets_pass(code):
    assert not faults(code)
