"""Anything that builds an estimator on a model, or one that was built: both are taken wherever either is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from dither.nodes import Node, as_module

Build = Callable[[nn.Module], Any]


def built(build: Any, model: nn.Module, what: str) -> Any:
    """The estimator that `build` builds on the model, or is, if it was built on it. what: how messages call it.

    Raises TypeError for what is neither, ValueError for an estimator of another model.
    """
    refuse_spelling(build, what)
    if not is_built(build):
        build = build(model)
        if not is_built(build):
            raise TypeError(
                f"{what} built {type(build).__name__}: it must return an estimator on the model that it is given, as "
                "`lambda model: dither.DisARM(model)` does"
            )
    if not same_model(build.model, model):
        raise ValueError(f"{what}, {build!r}, was built on another model: build it on this one, or pass its class")
    return build


def is_built(value: Any) -> bool:
    """Whether it is an estimator on a model, not what builds one."""
    return not isinstance(value, type) and hasattr(value, "model") and callable(value)


def refuse_built(build: Any, what: str, instead: str) -> None:
    """Raise where an estimator on one model cannot stand for what is built on many."""
    refuse_spelling(build, what)
    if is_built(build):
        raise TypeError(f"{what} is an estimator that was built on a model, {build!r}, and many are needed here: {instead}")


def refuse_spelling(build: Any, what: str) -> None:
    """Raise for a string, and for what cannot build anything."""
    if isinstance(build, str):
        raise TypeError(
            f"{what} is the string {build!r}: give a class (dither.DisARM), functools.partial of one, or an estimator that was "
            "built; dither.methods.build(string, model) reads the command line's spelling"
        )
    if not callable(build) or (isinstance(build, nn.Module) and not is_built(build)):
        raise TypeError(
            f"{what} is {type(build).__name__}: give a class (dither.DisARM), functools.partial of one, or an estimator that "
            "was built on the model"
        )


def same_model(one: nn.Module, other: nn.Module) -> bool:
    """Whether they are one model: lists of the same modules are, whoever has made a module of them."""
    if one is other:
        return True
    parts = [list(m) if isinstance(m, nn.ModuleList) else [m] for m in (one, as_module(other))]
    return len(parts[0]) == len(parts[1]) and all(a is b for a, b in zip(*parts, strict=True))


def no_model(model: Any, name: str) -> str:
    """Why that is no model, and what to give instead, in a message of the class `name`."""
    rule = f"an estimator is built on a torch.nn.Module, {name}(net), or on several, {name}([encoder, decoder])"
    if isinstance(model, type):
        of = f"{name}({model.__name__}())" if issubclass(model, nn.Module) else f"{name}(net)"
        return f"model is the class {model.__name__}: {rule}; make one first, such as {of}"
    parts = list(model) if isinstance(model, (list, tuple)) else []
    if isinstance(model, (Iterator, Tensor)) or any(isinstance(part, (Tensor, dict)) for part in parts):
        kind = "parameters" if parts else type(model).__name__
        return f"model is {kind}: {rule}; give the net itself, and net.parameters() to the optimizer"
    if isinstance(model, dict):
        return f"model is a dict: {rule}; give list(modules.values()) or a torch.nn.ModuleDict"
    if isinstance(model, (list, tuple)):
        odd = next((type(part).__name__ for part in parts if not isinstance(part, nn.Module)), None)
        return f"model is a {type(model).__name__} {f'with {odd} in it' if odd else 'of no modules'}: {rule}"
    if callable(model):
        return f"model is a function: {rule}; the closure is what it is called on, {name}(net)(closure)"
    return f"model is {model!r}: {rule}" if isinstance(model, str) else f"model is {type(model).__name__}: {rule}"


def require_closure(closure: Any, name: str) -> None:
    """Raise for what is no closure, such as a cost that was computed before the estimator could take the nodes over."""
    if callable(closure) and not isinstance(closure, (type, Node)):
        return
    kind = f"the class {closure.__name__}" if isinstance(closure, type) else type(closure).__name__
    computed = isinstance(closure, Tensor)
    raise TypeError(
        f"closure is {kind}{f' of shape {tuple(closure.shape)}' if computed else ''}: {name} is called on a function without "
        f"arguments that runs the model {'itself, because the estimator does so as often as it needs, ' * computed}and returns "
        'its cost per example, estimator(lambda: F.cross_entropy(net(x), y, reduction="none"))'
    )
