"""Whose cost a sample is credited with: its own example's, or that of the whole batch where examples depend on each other."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from dither import noise
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
    repeated: bool


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
        if plan.repeated:
            raise ValueError("examples is 'mixed', which repeated=True cannot credit: leave repeated out")
        return True
    if plan.repeated:
        return _require_apart(plan, closure)
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


def _require_apart(plan: Plan, closure: Closure) -> Literal[False]:
    """Raise where rows depend on each other: those of other samples, too, with repeated=True."""
    with noise._EXAMPLES.set(None):  # each row by itself
        row, _ = plan.mixing.example(plan, closure)
    if row is not None:
        raise RuntimeError(
            f"what is sampled for some rows changes the costs of others (that of row {row}, for one); with repeated=True those "
            "of other samples too, which would be biased. Batch normalisation in training mode: call .eval(), or take another "
            "norm behind the nodes. Where examples are meant to depend on each other leave repeated out: then each sample is a "
            "run of its own. estimator.examples = 'separate' leaves out what a sample does to other rows"
        )
    return False


def pooled(costs: Tensor) -> Tensor:
    """Every example with the costs of all. costs: (K, batch, terms)."""
    return costs.detach().sum(1, keepdim=True).expand_as(costs)
