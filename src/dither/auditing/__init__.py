"""How good are these gradients, on this model? `dither.audit` measures; `dither.Auto` acts on it."""

from dither.auditing._audit import audit
from dither.auditing._auto import Auto
from dither.auditing._html import render_html
from dither.auditing._recommendation import (
    Recommendation,
    equal_time_error,
    equal_time_worth,
    has_gradient,
    recommend,
    untrained,
)
from dither.auditing._report import AuditReport
from dither.auditing._rows import COLUMNS
from dither.auditing._warm_up import suitable

__all__ = [
    "COLUMNS",
    "AuditReport",
    "Auto",
    "Recommendation",
    "audit",
    "equal_time_error",
    "equal_time_worth",
    "has_gradient",
    "recommend",
    "render_html",
    "suitable",
    "untrained",
]
