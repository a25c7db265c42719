"""One grammar: what may be given by position, in every public signature; and no private names where users read."""

import ast
import inspect
import re
from contextlib import suppress
from importlib import import_module
from inspect import Parameter
from pathlib import Path
from pkgutil import iter_modules

import pytest

import dither

ROOT = Path(__file__).parent.parent
PACKAGES = ("estimators", "nodes", "testing", "exact", "functional", "chains", "metrics", "homeostasis", "auditing")

# Arguments with a default that stay positional, because they are what the thing is.
EXCEPTIONS = {
    "deterministic": {"kind"},  # `with dither.deterministic("mean"):` is its name in two words
    "Geometric": {"p"},  # the one parameter of a distribution
    "Independent": {"p"},  # likewise
    "GSN": {"layers"},  # the widths of a net, without which it says nothing
    "StochasticMLP": {"sizes"},
    "BinaryVAE": {"sizes"},
    "CategoricalVAE": {"sizes"},
}
READ_BY_USERS = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.py"), *ROOT.glob("examples/**/*.md")]
# Records that estimators are handed, and never write down: their fields are in one order.
RECORDS = {"Site", "Call", "Keyed", "Rows"}


def modules():
    yield from (import_module(f"dither.{name}") for name in PACKAGES)
    for module in iter_modules(import_module("dither.models").__path__):
        if not module.name.startswith("_"):
            yield import_module(f"dither.models.{module.name}")


def public_names():
    """name -> class or function of dither, each once."""
    for name in dir(dither):
        yield name, getattr(dither, name)
    for module in modules():
        for name in getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")]):
            yield name, getattr(module, name)


def is_ours(value: object) -> bool:
    return callable(value) and not inspect.ismodule(value) and (getattr(value, "__module__", "") or "").startswith("dither.")


NAMES = {id(value): (name, value) for name, value in public_names() if is_ours(value) and name not in RECORDS}.values()


def loose(value: object) -> set[str]:
    """The arguments with a default that may be given by position."""
    try:
        parameters = inspect.signature(value).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a type alias, an exception of Python's own making
        return set()
    return {p.name for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD and p.default is not Parameter.empty}


def test_what_has_a_default_is_given_by_keyword() -> None:
    positional = {name: loose(value) - EXCEPTIONS.get(name, set()) for name, value in NAMES}
    assert len(positional) > 150
    assert not {name: arguments for name, arguments in positional.items() if arguments}


def test_exceptions_are_none_too_many() -> None:
    positional = {name: loose(value) for name, value in NAMES}
    assert {name: positional[name] & arguments for name, arguments in EXCEPTIONS.items()} == EXCEPTIONS


@pytest.mark.parametrize("name", sorted(n for n, v in NAMES if inspect.isclass(v) and issubclass(v, dither.Estimator)))
def test_an_estimator_takes_its_model_and_keywords(name: str) -> None:
    kind = dict(NAMES)[name]
    first, *others = inspect.signature(kind).parameters.values()
    required = [p.name for p in others if p.default is Parameter.empty]
    assert first.name == "model"
    assert [p.name for p in others if p.kind is not Parameter.KEYWORD_ONLY] == required
    assert required == (["estimators"] if name == "PerNode" else [])


def test_arguments_of_several_estimators_have_one_meaning() -> None:
    """Those that more than one class takes stand in the guide's table."""
    table = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8").partition("| argument | means |")[2].partition("\n\n")[0]
    documented = set(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in table.splitlines() if line.count("|") > 2)))
    kinds = [v for _, v in NAMES if inspect.isclass(v) and issubclass(v, dither.Estimator)]
    owners: dict[str, int] = {}
    for kind in kinds:
        for argument in inspect.signature(kind).parameters:
            owners[argument] = owners.get(argument, 0) + 1
    assert {name for name, count in owners.items() if count > 1} - {"model"} <= documented <= owners.keys()


# Calls that texts show, in docstrings, messages and pages: of estimators whose names are no others' here.
ESTIMATORS = {
    n: v for n, v in NAMES if inspect.isclass(v) and issubclass(v, dither.Estimator) and n not in ("Estimator", "Exact")
}
CALL = re.compile(rf"\b({'|'.join(ESTIMATORS)})\(([^()]*(?:\([^()]*\)[^()]*)*)\)")
TEXTS = [*READ_BY_USERS, *ROOT.glob("src/**/*.py")]


def former_grammar(text: str) -> list[str]:
    wrong = []
    for match in CALL.finditer(text):
        with suppress(SyntaxError):  # not a call, but a formula
            call = ast.parse(f"f({match[2]})", mode="eval").body
            parameters = inspect.signature(ESTIMATORS[match[1]]).parameters.values()
            keep = sum(p.kind is Parameter.POSITIONAL_OR_KEYWORD for p in parameters)
            if isinstance(call, ast.Call) and len(call.args) > keep:
                wrong.append(match[0])
    return wrong


def test_texts_give_no_advice_in_the_former_grammar() -> None:
    assert former_grammar("use ScoreFunction(net, 'leave-one-out', samples=2) or PerNode(net, {'a': DisARM(net, 2)})")
    wrong = {str(page.relative_to(ROOT)): former_grammar(page.read_text(encoding="utf-8")) for page in TEXTS}
    assert not {page: calls for page, calls in wrong.items() if calls}


# --- private names --------------------------------------------------------------------------------------------------------
PRIVATE = re.compile(r"\bdither(?:\.\w+)*\._[a-z]\w*|\bfrom dither[\w.]* import (?:[\w, ]*\W)?_[a-z]\w*")
OF_INTERNALS = 49  # lines in tests that name a private module, to test what it does


def private_names(path: Path) -> list[str]:
    return PRIVATE.findall(path.read_text(encoding="utf-8"))


def test_what_users_read_has_no_private_name() -> None:
    pages = {str(path.relative_to(ROOT)): private_names(path) for path in READ_BY_USERS}
    assert len(pages) > 20 and not {page: names for page, names in pages.items() if names}


def test_tests_of_internals_are_no_more_than_they_were() -> None:
    lines = [
        line
        for path in (ROOT / "tests").rglob("*.py")
        if path.name not in ("test_grammar.py", "test_layering.py", "test_plugins.py")  # which write such lines as data
        for line in path.read_text(encoding="utf-8").splitlines()
        if PRIVATE.search(line)
    ]
    assert len(lines) <= OF_INTERNALS, "use a public name, or lower the number when one goes"


@pytest.mark.parametrize(
    ("line", "private"),
    [
        ("from dither.kernels import _native", True),
        ("from dither.kernels import _library, _native", True),
        ("from dither.metrics import nearest, _distances", True),
        ("from dither.data._mnist import FILES", True),
        ('monkeypatch.setattr("dither.metrics._chains.BLOCK", 1)', True),
        ("from dither.metrics import nearest, squared_distances", False),
        ("dither.testing.bias(estimator, closure)", False),
        ("node._handler", False),
    ],
)
def test_private_names_are_found(line: str, private: bool) -> None:
    assert bool(PRIVATE.search(line)) is private
