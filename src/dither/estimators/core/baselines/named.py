"""The baselines that an estimator's argument names."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from dither.estimators.core.baselines.baseline import Baseline, LeaveOneOut, Zero
from dither.estimators.core.baselines.learned import Learned
from dither.estimators.core.baselines.moving import Optimal, RunningMean
from dither.estimators.core.baselines.node_state import NodeState
from dither.settings import did_you_mean

BaselineName = Literal["mean", "optimal", "leave-one-out"]


def make_baseline(
    baseline: BaselineName | nn.Module | Baseline | None, decay: float, per_logit: bool = True, nodes: tuple[str, ...] = ()
) -> Baseline:
    """The baseline that an argument names. nodes: those that it is for, which its state is to name."""
    learner = _made(baseline, decay, per_logit)
    for part in learner.modules():
        if isinstance(part, NodeState):
            part.nodes = nodes
    return learner


def _made(baseline: BaselineName | nn.Module | Baseline | None, decay: float, per_logit: bool) -> Baseline:
    if isinstance(baseline, Baseline):
        return baseline
    if isinstance(baseline, nn.Module):
        return Learned(baseline)
    if baseline is None:
        return Zero()
    if baseline == "mean":
        return RunningMean(decay)
    if baseline == "optimal":
        return Optimal(decay, per_logit)
    if baseline == "leave-one-out":
        return LeaveOneOut()
    raise ValueError(
        f"baseline is {baseline!r}: it must be None, 'mean', 'optimal', 'leave-one-out' or a torch.nn.Module of the logits"
        + did_you_mean(baseline, get_args(BaselineName))
    )
