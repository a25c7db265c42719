"""Whose cost a sample is credited with: its own example's, or that of the whole batch where examples depend on each other."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from dither.estimators.core import mixing
from dither.estimators.core.mixing import Mixing
from dither.estimators.core.ranks import world
from dither.estimators.core.site import Closure
from dither.estimators.core.told import tell

Examples = Literal["checked", "separate", "mixed"]

_FOUND = (
    "what is sampled for some examples changes the costs of others (that of example {example}, for one), but {name} credits a "
    "sample with the cost of its own example, which would be biased. {consequence} Time-first logits: give them as "
    "logits.transpose(0, 1). Batch normalisation in training mode: call .eval(), or take another norm behind the nodes. "
    "{mixed}; estimator.examples = 'separate' leaves out what a sample does to other examples"
)


class Plan(mixing.Plan, Protocol):
    examples: Examples
    mixing: Mixing
    credits_examples: bool
    credits_batches: bool


def pools(plan: Plan, closure: Closure) -> bool:
    """Whether this call credits every sample with the cost of the whole batch: unbiased whatever examples do to each other, and
    the noisier the larger the batch."""
    name = type(plan).__name__
    if plan.examples not in ("checked", "separate", "mixed"):
        raise ValueError(f"examples is {plan.examples!r}: it must be 'checked', 'separate' or 'mixed'")
    if not plan.credits_examples or plan.examples == "separate":
        return False
    if plan.examples == "mixed":
        if not plan.credits_batches:
            raise ValueError(
                f"examples is 'mixed', but {name} compares costs example by example: use ScoreFunction, DisARM or another "
                "estimator that may credit by the cost of the whole batch, or make the examples independent of each other"
            )
        return True
    example, news = plan.mixing.example(plan, closure)
    if example is None:
        return False
    if not plan.credits_batches or world() > 1:
        mixed = "Where examples are meant to depend on each other use ScoreFunction or DisARM"
        if plan.credits_batches:
            mixed = "Where the examples of one rank, and not of several, are meant to, set estimator.examples = 'mixed'"
        raise RuntimeError(_FOUND.format(example=example, name=name, consequence="Make them independent.", mixed=mixed))
    if news:
        consequence = "So it credits with the cost of the whole batch: unbiased, and much noisier."
        mixed = "Where examples are meant to depend on each other set estimator.examples = 'mixed'"
        tell(_FOUND.format(example=example, name=name, consequence=consequence, mixed=mixed))
    return True


def pooled(costs: Tensor) -> Tensor:
    """Every example with the costs of all. costs: (K, batch, terms)."""
    return costs.detach().sum(1, keepdim=True).expand_as(costs)
