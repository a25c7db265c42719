"""Every estimator that the library exports, and what each says of itself that is to be checked."""

from __future__ import annotations

import inspect

from dither import estimators

CLASSES = [c for c in vars(estimators).values() if isinstance(c, type) and issubclass(c, estimators.Estimator)]
ROWS = {name: build for c in CLASSES if not inspect.isabstract(c) for name, build in c.configurations().items()}
