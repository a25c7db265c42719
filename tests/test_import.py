"""`import dither` is light, and every public name is there when asked for."""

import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import pytest

import dither


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_neither_torch_nor_numpy():
    loaded = run(
        "import sys, dither; from dither import files; dither.__version__; hasattr(dither, '__wrapped__')\n"
        "print([name for name in ('torch', 'numpy', 'rich', 'tyro') if name in sys.modules])"
    )
    assert loaded == "[]"


def test_a_public_name_does_not_load_the_compiler():
    # torch's compiler takes longer to import than torch itself; nothing needs it before something is compiled.
    code = "import sys, torch, dither; dither.Bernoulli()(torch.zeros(2, 3)); print('torch._dynamo' in sys.modules)"
    assert run(code) == "False"


def test_a_public_name_loads_the_rest():
    assert run("import dither; print(dither.Bernoulli.__name__)") == "Bernoulli"
    assert run("from dither import Bernoulli; print(Bernoulli.__name__)") == "Bernoulli"


def test_submodules_are_attributes_and_imports():
    assert run("import dither; print(dither.functional.__name__, dither.data.digits().name)") == ("dither.functional digits")
    assert run("import dither.functional as f; print(f.__name__)") == "dither.functional"


def test_public_names():
    names = import_module("dither._api").__all__
    assert set(names) <= set(dir(dither))
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(dither, name) is getattr(dither._api, name)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match=r"no attribute 'Bernouilli'; its public names are .*Bernoulli"):
        _ = dither.Bernouilli
    assert not hasattr(dither, "__path_to_nowhere__") and not hasattr(dither, "_private")


def test_version():
    assert dither.__version__ == version("dither")
