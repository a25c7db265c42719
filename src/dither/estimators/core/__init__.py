"""What all estimators share: calls, runs, sites, credit, baselines. Enough is exported here to write one."""

from dither.estimators.core.baselines.baseline import Baseline
from dither.estimators.core.baselines.named import make_baseline
from dither.estimators.core.building import Build, built
from dither.estimators.core.call import Call, Layout
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.parts import Named
from dither.estimators.core.site import Closure, Site

__all__ = ["Baseline", "Build", "Call", "Closure", "Estimator", "Layout", "Named", "Site", "built", "make_baseline"]
