"""What an object was built with: given by keyword, and shown by its `repr`."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from inspect import Parameter
from typing import Any, ClassVar

POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class Configured:
    """Base of classes whose constructors take keywords, and whose instances say what was given.

    former_order: a class's arguments that could once be given by position, after those that still can. For one version more
    they are accepted so, with a FutureWarning. A class that is derived declares its own constructor's, if any.
    """

    former_order: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _recording(vars(cls)["__init__"], vars(cls).get("former_order", ()))  # type: ignore[method-assign]

    def settings(self) -> dict[str, str]:
        """Every argument of the constructor but the model, as Python writes it: what it is now where the instance has a plain
        value under its name, else what was given."""
        given: Mapping[str, str] = vars(self).get("_given", {})
        now = {name: getattr(self, name, None) for name in given}
        return {name: repr(now[name]) if _plain(now[name], given[name]) else text for name, text in given.items()}

    def written(self) -> str:
        """The settings, as the arguments of a call."""
        return ", ".join(f"{name}={text}" for name, text in self.settings().items())


def _plain(value: Any, given: str) -> bool:
    """Whether an attribute is its setting as it is now, and not something that was made of it."""
    return isinstance(value, (bool, int, float, str)) or (value is None and given == "None")


def _recording(init: Callable[..., None], former: tuple[str, ...]) -> Callable[..., None]:
    """The constructor, which then knows what it was given, and takes the former positional arguments."""
    signature = inspect.signature(init)
    by_position = [p for p in signature.parameters.values() if p.kind in POSITIONAL]
    takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in signature.parameters.values())
    variadic = any(p.kind is Parameter.VAR_POSITIONAL for p in signature.parameters.values())

    @wraps(init)
    def recording(self: Any, *args: Any, **kwargs: Any) -> None:
        unknown = [] if takes_any else [name for name in kwargs if name not in signature.parameters]
        if unknown:
            raise TypeError(_unknown(type(self), signature, unknown[0]))
        late = () if variadic else args[len(by_position) - 1 :]
        names = former[: len(late)]
        if late and (len(late) > len(former) or not set(names).isdisjoint(kwargs)):
            raise TypeError(_too_many(type(self), signature, len(args), len(by_position) - 1))
        if late:
            args, kwargs = args[: len(by_position) - 1], {**dict(zip(names, late, strict=True)), **kwargs}
        init(self, *args, **kwargs)
        if late:  # an argument that means nothing has its own error, and no warning
            warnings.warn(
                f"{type(self).__name__} takes {', '.join(names)} by keyword from the next version on: write "
                f"{type(self).__name__}({', '.join([*_ellipsis(by_position), *(f'{n}={_short(kwargs[n])}' for n in names)])})",
                FutureWarning,
                stacklevel=2,
            )
        if type(self).__init__ is recording:  # not for a base's constructor, called by the class's own
            vars(self)["_given"] = _texts(signature, (self, *args), kwargs)

    return recording


def _too_many(cls: type, signature: inspect.Signature, given: int, taken: int) -> str:
    names = [name for name, p in signature.parameters.items() if p.kind is Parameter.KEYWORD_ONLY]
    return (
        f"{cls.__name__} got {given} arguments by position and takes {taken or 'none'}: give the others by keyword, "
        f"{', '.join(f'{name}=...' for name in names) or 'of which there are none'}"
    )


def _unknown(cls: type, signature: inspect.Signature, name: str) -> str:
    known = [p.name for p in list(signature.parameters.values())[1:]]
    return f"{cls.__name__} takes no {name!r}{did_you_mean(name, known).rstrip('?')}: it takes {', '.join(known) or 'nothing'}"


def _ellipsis(by_position: list[Parameter]) -> list[str]:
    return [p.name for p in by_position[1:]]


def _texts(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, str]:
    """Texts, not values: what was given is not kept alive, copied or pickled with what was built."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    given = dict(list(bound.arguments.items())[1:])
    given.pop("model", None)  # which says which nodes there are, and may be large
    for name, p in signature.parameters.items():
        if p.kind is Parameter.VAR_KEYWORD:
            given.update(given.pop(name, {}))
    return {name: _short(value) for name, value in given.items()}


def _short(value: Any) -> str:
    """As it would be written in a program, as far as it can be, in one line."""
    if isinstance(value, partial):
        arguments = [_short(value.func), *map(_short, value.args), *(f"{k}={_short(v)}" for k, v in value.keywords.items())]
        return f"partial({', '.join(arguments)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_short(k)}: {_short(v)}" for k, v in value.items()) + "}"
    if type(value) in (list, tuple):
        inside = ", ".join(map(_short, value)) + ("," if isinstance(value, tuple) and len(value) == 1 else "")
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    if isinstance(value, type) or inspect.isroutine(value):
        return value.__name__
    if hasattr(value, "dtype") and hasattr(value, "shape"):  # not its values, which may be many, or on a device
        return f"{type(value).__name__}(shape={tuple(value.shape)}, dtype={value.dtype})"
    try:
        return " ".join(repr(value).split())
    except Exception:  # what cannot be shown can be built with
        return f"<{type(value).__name__}>"


# --- slips ----------------------------------------------------------------------------------------------------------------
def did_you_mean(value: object, known: Iterable[str]) -> str:
    """ "; did you mean 'leave-one-out'?" for a word that is near to a known one, or made of its initials; else ""."""
    if not isinstance(value, str):
        return ""
    words, said = list(known), value.lower().replace("_", "-").replace(" ", "-")
    initials = {"".join(part[:1] for part in word.split("-")): word for word in words if "-" in word}
    near = [initials[said]] if said in initials else difflib.get_close_matches(said, words, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
