"""The public names of dither: the plug-ins that the packages of nodes and estimators list, and a few more."""

from inspect import isclass

from dither import exact, functional, noise, testing
from dither.auditing import AuditReport, Auto, audit
from dither.estimators import *  # noqa: F403
from dither.estimators import Estimator
from dither.estimators.core.repeated import repeat_rows
from dither.homeostasis import FiringRate
from dither.nodes import *  # noqa: F403
from dither.nodes import Node, deterministic, rows

_OTHERS = (
    *(AuditReport, Auto, Estimator, FiringRate, Node),
    *(audit, deterministic, exact, functional, noise, repeat_rows, rows, testing),
)


def _is_plugin(value: object) -> bool:
    """Whether it is a class from a module of its own, whose name begins with an underscore."""
    module = value.__module__ if isclass(value) else ""
    return module.startswith(("dither.estimators.", "dither.nodes.")) and module.rpartition(".")[2].startswith("_")


__all__ = sorted(  # pyright: ignore[reportUnsupportedDunderAll]
    name
    for name, value in globals().items()
    if not name.startswith("_") and (_is_plugin(value) or any(value is other for other in _OTHERS))
)
