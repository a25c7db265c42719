"""How good are these gradients, on this model? `dither.audit` measures."""

from dither.auditing._audit import audit
from dither.auditing._report import AuditReport

__all__ = ["AuditReport", "audit"]
