"""The spelling of an estimator: on the command line, in configurations and in results.

    score-function                                  ScoreFunction(model)
    score-function:optimal,samples=10               ScoreFunction(model, baseline="optimal", samples=10)
    reinmax:temperature=1.2                         ReinMax(model, temperature=1.2)

A class in lower case with hyphens, then its own arguments: `name=value`, or the word alone for an argument whose type is a
`Literal` of words. There is no list of estimators here: the classes are those that `dither.estimators` exports, and `Auto`.
`names` reads them without importing torch.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from torch import nn

    from dither.estimators import Estimator

_EXCEPT = {"PerNode", "Episodes", "Estimator", "Site"}  # they take more than words and numbers
_ONE_WORD = {"DisARM", "MuProp", "ReinMax"}  # as their papers write them
Value = str | int | float | bool


@cache
def names() -> tuple[str, ...]:
    """The estimators' names, without arguments."""
    return tuple(sorted(_classes()))


@cache
def _classes() -> dict[str, str]:
    """name -> class, of those that `dither.estimators` exports from its plug-ins (modules with an underscore)."""
    tree = ast.parse((Path(__file__).parent / "estimators" / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    plugins = [node for node in imports if (node.module or "").rpartition(".")[2].startswith("_")]
    classes = [alias.name for node in plugins for alias in node.names] + ["Auto"]
    return {_hyphenated(name): name for name in classes if name not in _EXCEPT}


def _hyphenated(name: str) -> str:
    """ScoreFunction -> score-function, DoubleCV -> double-cv, RELAX -> relax."""
    return name.lower() if name in _ONE_WORD else re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def class_of(name: str) -> type[Estimator]:
    """The class that a name without arguments means. Raises ValueError for one that is not known."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"; perhaps you meant {near[0]}" if near else ""
        raise ValueError(f"there is no estimator {name!r}; known are {', '.join(names())}{hint}")
    return getattr(import_module("dither"), _classes()[name])


def parse(method: str) -> tuple[type[Estimator], dict[str, Value]]:
    """(class, arguments) of a spelling. Raises ValueError, naming what the class takes."""
    name, _, rest = method.partition(":")
    kind = class_of(name)
    arguments: dict[str, Value] = {}
    for part in rest.split(",") if rest else ():
        key, value = _argument(method, kind, part)
        if key in arguments:
            raise ValueError(f"{method!r} gives {key} twice")
        arguments[key] = value
    return kind, arguments


def _argument(method: str, kind: type[Estimator], part: str) -> tuple[str, Value]:
    words = words_of(kind)
    if "=" not in part:
        keys = [name for name, known in words.items() if part in known]
        if len(keys) != 1:
            listed = [word for known in words.values() for word in known]
            raise ValueError(f"{method!r}: {part!r} is no word that {kind.__name__} knows; {_takes(kind, listed)}")
        return keys[0], part
    key, _, text = part.partition("=")
    if text in words.get(key, ()):
        raise ValueError(f"{method!r}: write {text!r} alone: only one argument of {kind.__name__} knows that word")
    if key in words or key not in _plain(kind):
        listed = [word for known in words.values() for word in known]
        raise ValueError(f"{method!r}: {kind.__name__} takes no {key}=; {_takes(kind, listed)}")
    value, hint = _value(text), get_type_hints(kind.__init__)[key]
    kinds = {hint, *get_args(hint)}
    if type(value) not in kinds and not (type(value) is int and float in kinds):
        expected = "true or false" if bool in kinds else "an integer" if int in kinds else "a number"
        raise ValueError(f"{method!r}: {key} is {text!r}, it must be {expected}")
    return key, value


def _takes(kind: type[Estimator], words: list[str]) -> str:
    keys = ", ".join(f"{key}=" for key in _plain(kind))
    return "it takes " + " and ".join(part for part in (", ".join(words), keys) if part)


def _value(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def words_of(kind: type[Estimator]) -> dict[str, tuple[str, ...]]:
    """argument -> the words that it may be, for the arguments whose type is a Literal of words."""
    hints = get_type_hints(kind.__init__)
    all_words = {name: tuple(_words(hint)) for name, hint in hints.items() if name != "return"}
    return {name: words for name, words in all_words.items() if words}


def _words(hint: Any) -> Iterator[str]:
    if get_origin(hint) is Literal:
        yield from (word for word in get_args(hint) if isinstance(word, str))
    else:
        for part in get_args(hint):
            yield from _words(part)


def _plain(kind: type[Estimator]) -> list[str]:
    """The arguments that may be a number or a truth value."""
    hints = get_type_hints(kind.__init__)
    plain = {int, float, bool}
    return [name for name in inspect.signature(kind).parameters if plain & {hints.get(name), *get_args(hints.get(name))}]


def spelling(kind: type[Estimator], /, **arguments: Value) -> str:
    """The spelling of a class with arguments: `parse` undone."""
    words = words_of(kind)
    parts = [str(value) if key in words else f"{key}={str(value).lower()}" for key, value in arguments.items()]
    return _hyphenated(kind.__name__) + (":" + ",".join(parts) if parts else "")


def every() -> list[str]:
    """Each estimator by itself, and with each word that it knows and does not take by default."""
    spellings = []
    for kind in map(class_of, names()):
        parameters = inspect.signature(kind).parameters
        words = [{key: word} for key, known in words_of(kind).items() for word in known if word != parameters[key].default]
        spellings += [spelling(kind, **arguments) for arguments in ({}, *words)]
    return spellings


def build(method: str, model: nn.Module, *, samples: int | None = None) -> Estimator:
    """The estimator of that spelling on the model.

    samples: for those that take samples and whose spelling gives no number; raised to as many as the method needs, an even
    number where it takes pairs.
    Raises ValueError for a spelling that means nothing; TypeError for a model whose nodes the estimator does not take.
    """
    kind, arguments = parse(method)
    if samples is not None and "samples" in inspect.signature(kind).parameters:
        arguments.setdefault("samples", enough_samples(method, samples))
    return kind(model, **arguments)  # type: ignore[arg-type]


def fewest_samples(method: str) -> int:
    """How many samples the method needs at least; 0 if it takes no such argument."""
    kind, arguments = parse(method)
    if "samples" not in inspect.signature(kind).parameters:
        return 0
    return kind.fewest_samples(words=[value for value in arguments.values() if isinstance(value, str)])


def enough_samples(method: str, samples: int) -> int:
    """That many samples or, where the method needs more or takes pairs, the next number that it takes."""
    enough = max(samples, fewest_samples(method))
    return enough + -enough % parse(method)[0].runs_together


def slug(method: str) -> str:
    """The spelling as a part of a file's name."""
    return re.sub(r"[^a-z0-9.]+", "-", method)
