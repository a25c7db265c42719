"""Strings become objects here and nowhere else in the library.

The tables are read by `--help`, so nothing heavy is imported until an entry is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from dither.cli.errors import UsageError

EstimatorName = Literal[
    "straight-through-identity",
    "straight-through",
    "straight-through-clipped",
    "reinmax",
    "gumbel-softmax",
    "gumbel-rao",
    "mve",
    "score-function",
    "score-function-mean",
    "score-function-optimal",
    "score-function-leave-one-out",
    "forward-only",
    "nvil",
    "vimco",
    "disarm",
    "arm",
    "arms",
    "carms",
    "unordered-set",
    "muprop",
    "rebar",
    "relax",
    "double-cv",
    "rodeo",
    "blend",
    "blend-control-variate",
    "local-expectation",
    "sum-and-sample",
    "path-sample-analytic",
    "exact",
    "node-perturbation",
    "spsa",
    "finite-difference",
    "deterministic",
]
TrainName = Literal[EstimatorName, "auto"]  # chooses among others
AuditName = Literal[EstimatorName, "all"]
ModelName = Literal["mlp"]
DataName = Literal["digits", "mnist", "fashion_mnist"]


class Method(NamedTuple):
    """kind: a class of `dither`. arguments: its keyword arguments; what can be called is given the model. least: the fewest
    samples that it can do with, 0 if it takes no such argument."""

    kind: str
    arguments: dict[str, Any]
    least: int = 1


def _linear_per_node(model):
    from torch import nn

    from dither.nodes import named_nodes

    return nn.ModuleDict({n.replace(".", "_"): nn.LazyLinear(1) for n, node in named_nodes(model).items() if node.discrete})


METHODS: dict[str, Method] = {
    "straight-through-identity": Method("StraightThrough", {"variant": "identity"}),
    "straight-through": Method("StraightThrough", {"variant": "sigmoid"}),
    "straight-through-clipped": Method("StraightThrough", {"variant": "clipped"}),
    "reinmax": Method("ReinMax", {}),
    "gumbel-softmax": Method("GumbelSoftmax", {}),
    "gumbel-rao": Method("GumbelRao", {}),
    "mve": Method("MVE", {}),
    "score-function": Method("ScoreFunction", {}),
    "score-function-mean": Method("ScoreFunction", {"baseline": "mean"}),
    "score-function-optimal": Method("ScoreFunction", {"baseline": "optimal"}),
    "score-function-leave-one-out": Method("ScoreFunction", {"baseline": "leave-one-out"}, 2),
    "forward-only": Method("ForwardOnly", {"baseline": "mean", "keep": "bits"}),
    "nvil": Method("NVIL", {"baseline": _linear_per_node}),
    "vimco": Method("VIMCO", {}, 2),
    "disarm": Method("DisARM", {}),
    "arm": Method("ARM", {}),
    "arms": Method("ARMS", {}, 2),
    "carms": Method("CARMS", {}, 2),
    "unordered-set": Method("UnorderedSet", {}, 2),
    "muprop": Method("MuProp", {}),
    "rebar": Method("REBAR", {}),
    "relax": Method("RELAX", {}),
    "double-cv": Method("DoubleCV", {}, 2),
    "rodeo": Method("RODEO", {}, 2),
    "blend": Method("Blend", {"kind": "prediction"}, 2),
    "blend-control-variate": Method("Blend", {"kind": "control-variate"}, 2),
    "local-expectation": Method("LocalExpectation", {}, 0),
    "sum-and-sample": Method("SumAndSample", {}, 0),
    "path-sample-analytic": Method("PathSampleAnalytic", {}, 0),
    "exact": Method("Exact", {}, 0),
    "node-perturbation": Method("NodePerturbation", {}),
    "spsa": Method("SPSA", {}),
    "finite-difference": Method("FiniteDifference", {}, 0),
    "deterministic": Method("Deterministic", {}, 0),
    "auto": Method("Auto", {"by": "evaluations"}, 0),  # by time, the same command would not give the same weights
}


def build(name: str, model: Any, samples: int, note: Callable[[str], Any] | None = None) -> Any:
    """The estimator called `name` on the model, with at least the samples that it needs; `note` is told of more.

    Raises UsageError when the model has nodes that it does not take.
    """
    import dither

    method = METHODS[name]
    arguments = {key: value(model) if callable(value) else value for key, value in method.arguments.items()}
    if method.least:
        arguments["samples"] = max(samples, method.least)
        if note and samples < method.least:
            note(f"{name} compares samples: it gets {method.least} instead of {samples}")
    try:
        return getattr(dither, method.kind)(model, **arguments)
    except TypeError as error:
        raise UsageError(f"{name}: {error}") from error


def _mlp(features: int, hidden: tuple[int, ...], classes: int, gain: float):
    from dither.models.mlp import StochasticMLP

    return StochasticMLP((features, *hidden, classes), gain=gain)


# name -> (features, hidden, classes, gain) -> model
MODELS: dict[ModelName, Callable[[int, tuple[int, ...], int, float], Any]] = {"mlp": _mlp}
