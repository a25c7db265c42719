"""How good are these gradients, on this model? `dither.audit` measures; `dither.Auto` acts on it."""

from dither.auditing._audit import audit
from dither.auditing._auto import Auto
from dither.auditing._recommendation import Recommendation
from dither.auditing._report import AuditReport
from dither.auditing._warm_up import suitable

__all__ = ["AuditReport", "Auto", "Recommendation", "audit", "suitable"]
