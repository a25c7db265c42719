"""Positions in which users put an estimator, in each of which its expectation must be the exact gradient, or the call refused.

dither.testing.check_positions(MyEstimator)                  all positions
dither.testing.check_positions(MyEstimator, positions=["copied"])      some

A position takes a `Subject`, an estimator on a tiny net, and raises AssertionError where the gradient is wrong.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial

import torch

from dither.estimators.core.building import refuse_built
from dither.nodes import Bernoulli
from dither.testing import _changing, _surroundings
from dither.testing._checks import Build
from dither.testing._round_trip import round_trip
from dither.testing._subject import Subject, subject
from dither.testing._tiny import Make
from dither.testing._unbiased import CheckFailed

POSITIONS: dict[str, Callable[[Subject], None]] = {
    "plain": _surroundings.plain,
    "float32 model, default float64": partial(_surroundings.under_default, torch.float64, torch.float32),
    "float32 model, default bfloat16": partial(_surroundings.under_default, torch.bfloat16, torch.float32),
    "float64 model, default float64": partial(_surroundings.under_default, torch.float64, torch.float64),
    "float64 model, default bfloat16": partial(_surroundings.under_default, torch.bfloat16, torch.float64),
    "default device": _surroundings.default_device,
    "in place after the node": _changing.output_in_place,
    "logits changed in place": _changing.logits_in_place,
    "in place before the cost": _changing.before_the_cost,
    "copied": partial(_surroundings.duplicated, copy.deepcopy),
    "pickled": partial(_surroundings.duplicated, round_trip),
    "threads": _surroundings.threads,
    "alternating closures": _changing.alternating,
    "random windows": _changing.random_windows,
    "no unit dimension": _surroundings.no_unit_dimension,
    "inside PerNode": _surroundings.inside_per_node,
    "vmap": partial(_surroundings.vectorized, True),
    "loop": partial(_surroundings.vectorized, False),
    "compiled model": _surroundings.compiled_model,
    "checkpointed": partial(_surroundings.checkpointed, False),
    "checkpointed in a vmap": partial(_surroundings.checkpointed, True),
    "accumulation": _surroundings.accumulation,
}
# What the message of a refusal must say, by position; where none stands, none is legal.
REFUSALS = {
    # Exact keeps no logits but those that torch saves for it, and looks after.
    "logits changed in place": r"changed in place after the node sampled .* change a copy|modified by an inplace operation",
    "inside PerNode": r"takes all nodes of a model together[:;] use it by itself|no node is called",
    "checkpointed": r"turn checkpointing off",
    "checkpointed in a vmap": r"turn checkpointing off",
}


def check_positions(
    build: Build,
    *,
    positions: Collection[str] | None = None,
    node: Make = Bernoulli,
    depth: int = 2,
    refusals: Mapping[str, str] = REFUSALS,
) -> dict[str, str]:
    """Try an unbiased estimator in every position of POSITIONS: {position: "right", or the message by which it was refused}.

    build: anything that builds the estimator on a model. node: anything that builds a node, for logits (batch, units) or, if it
    is one-hot, (batch, units, 2). depth: of the tiny net, one node or two. refusals: by position, a regular expression of what
    the message of a refusal says; a refusal names the remedy. In a position that has none, no error is legal.

    Expectations are sums over all outcomes where these are few and the position lets them be summed, else z-tests.

    Raises CheckFailed, whose `check` is the position, at the first where the expectation of the gradient is not the exact
    gradient of the expected cost, or where an error is raised that is no refusal.
    """
    refuse_built(build, "build", "give its class or functools.partial of it; assert_unbiased takes one on your own model")
    names = list(POSITIONS) if positions is None else [positions] if isinstance(positions, str) else list(positions)
    if unknown := [name for name in names if name not in POSITIONS]:
        raise ValueError(f"positions has {', '.join(map(repr, unknown))}; there are {', '.join(POSITIONS)}")
    tried, results = subject(build, node, depth), {}
    for name in names:
        try:
            POSITIONS[name](tried)
            results[name] = "right"
        except AssertionError as wrong:
            raise CheckFailed(name, "a tiny net", str(wrong)) from wrong
        except Exception as error:
            message = "\n".join((str(error), *getattr(error, "__notes__", ())))
            if not re.search(refusals.get(name, "(?!)"), message, re.DOTALL):
                raise CheckFailed(name, "a tiny net", f"{type(error).__name__}: {message}") from error
            results[name] = message
    return results
