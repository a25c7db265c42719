"""Why an estimator is biased: it is run again, frozen and on changed costs, and compared with the gradient of the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dither import exact
from dither.testing._logits import logits_as_parameters, node_of

Closure = Callable[[], Tensor]
CAUSES = {
    "state": "what it learns in a call depends on that call's own costs or samples",
    "terms": "local credit forgets some terms",
    "direct": "the cost's direct dependence on a parameter is lost or changed",
    "nonlinear": "the estimate is not linear in the costs",
    "offset": "a part of the estimate does not depend on the costs",
    "uncentred": "a constant added to the costs changes the mean",
    "multiple": "a constant factor at every node",
    "node": "another factor at each node",
    "unit": "another factor at each unit",
    "example": "another factor at each example",
}


@dataclass(frozen=True)
class Biased:
    """A biased estimator, and how its expectations are computed.

    objective: (estimator, closure) -> the cost per example whose expectation it differentiates.
    """

    estimator: Any
    closure: Closure
    objective: Callable[[Any, Closure], Closure]
    tolerance: float
    max_outcomes: int

    def mean(self, closure: Closure | None = None, frozen: bool = False) -> dict[str, Tensor]:
        how: Any = {"frozen": frozen, "variance": False, "max_outcomes": self.max_outcomes, "vectorize": self.vmap}
        return exact.moments(self.estimator, closure or self.closure, **how).mean

    def scaled(self, factor: float) -> dict[str, Tensor]:
        return self.mean(lambda: factor * self.closure())

    def gradient(self, closure: Closure | None = None) -> dict[str, Tensor]:
        whole = self.objective(self.estimator, closure or self.closure)
        return exact.gradient(self.estimator.model, whole, max_outcomes=self.max_outcomes, vectorize=self.vmap)

    @property
    def vmap(self) -> bool:
        return getattr(self.estimator, "vectorize", True)

    def equal(self, a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
        scale = max(1.0, *(float(t.abs().max()) for t in b.values() if t.numel()))
        return all(float((a[name] - b[name]).abs().max()) <= self.tolerance * scale for name in b if b[name].numel())


def cause_of_bias(subject: Biased) -> tuple[str, str]:
    """(the name of a cause in CAUSES, what was found), the first that explains the bias; ("", ...) if none does."""
    try:
        for cause in (_state, _terms, _of_costs, _uncentred, _factors):
            if reason := cause(subject):
                return reason
    except Exception as error:  # a program that runs one way only must still be told its bias
        return "", f"why could not be found, because a rerun raised {type(error).__name__}: {error}"
    return "", (
        "it is no multiple of the exact gradient at any unit, linear in the costs and blind to constants: a bias that depends "
        "on the cost's shape, as that of estimators that propagate; declare unbiased = False if that is meant"
    )


def _state(subject: Biased) -> tuple[str, str] | None:
    """It may learn from a call only after the call has used what was learned."""
    before = {name: tensor.clone() for name, tensor in subject.estimator.state_dict().items()}
    mean = subject.mean(frozen=True)
    changed = not _same(subject.estimator, before)
    subject.estimator.load_state_dict(before, strict=False)
    if changed:
        return "state", "it learns in a call even while it is frozen: learn afterwards, by `update`, and only if self.learning"
    if not subject.equal(mean, subject.gradient()):
        return None
    return "state", (
        "frozen it is unbiased, so its state makes it biased: what it learns in a call depends on that call's own costs or "
        "samples; use what previous calls have left, and learn afterwards"
    )


def _same(estimator: Any, before: dict[str, Tensor]) -> bool:
    try:
        state = estimator.state_dict()
        return all(torch.equal(state[name], tensor) for name, tensor in before.items())
    except RuntimeError:  # it kept tensors of a vmap that is over
        return False


def _terms(subject: Biased) -> tuple[str, str] | None:
    """Local credit: the same cost as one sum."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        cost = subject.closure()
    if cost.dim() < 2 or cost.shape[1] < 2:
        return None
    whole = lambda: subject.closure().sum(1)  # noqa: E731
    if subject.equal(subject.mean(whole), subject.gradient(whole)):
        return "terms", (
            "it is unbiased where the closure returns the sum of its terms, so local credit is wrong: a unit answers for every "
            "term that its sample can change, through later layers too; use site.credit(costs)"
        )
    return None


def _of_costs(subject: Biased) -> tuple[str, str] | None:
    """As a function of the costs, baselines of previous calls aside, the expectation is proportional to them."""
    if getattr(subject.estimator, "multi_sample", False):
        return None
    once, twice, thrice = (subject.scaled(factor) for factor in (1.0, 2.0, 3.0))
    step = {name: twice[name] - once[name] for name in once}
    if not subject.equal({name: thrice[name] - twice[name] for name in once}, step):
        return "nonlinear", (
            "3 times the costs less 2 times does not give what 2 times less once gives: they are clipped, rounded, squared or "
            "divided by something of the same call"
        )
    if subject.equal(step, once):
        return None
    return "offset", (
        "a part of its expectation does not depend on the costs: a term without costs is added, or what is subtracted from "
        "them depends on the sample"
    )


def _uncentred(subject: Biased) -> tuple[str, str] | None:
    once, shifted = subject.mean(), subject.mean(lambda: subject.closure() + 1)
    if getattr(subject.estimator, "multi_sample", False) or subject.equal(shifted, once):
        return None
    return "uncentred", (
        "a constant added to the costs changes its expectation and not the gradient: what multiplies the costs must have mean "
        "zero, as d log P(sample) has under the very probabilities that the sample was taken with"
    )


# --- multiples of the gradient with respect to the logits -----------------------------------------------------------------
def _factors(subject: Biased) -> tuple[str, str] | None:
    with logits_as_parameters(subject.estimator.model, subject.closure) as (closure, shapes):
        mean, gradient = subject.mean(closure), subject.gradient(closure)
    samples = int(getattr(subject.estimator, "samples", 1))
    at_nodes = _of_nodes({name: (mean[name], gradient[name]) for name in shapes}, subject.tolerance, samples)
    if at_nodes is not None:
        return at_nodes
    pairs = {name: (mean[name], gradient[name]) for name in gradient if name not in shapes}
    wrong = [name for name, pair in pairs.items() if _factor(*pair, subject.tolerance) != 1.0]
    right = all(_factor(mean[name], gradient[name], subject.tolerance) == 1.0 for name in shapes)
    if wrong and right:
        factor = _factor(*pairs[wrong[0]], subject.tolerance)
        return "direct", (
            f"it is right with respect to the logits of every node, and wrong for {', '.join(wrong)}"
            f"{'' if factor is None else f' ({factor:.6g} times the exact gradient)'}: the cost's direct dependence on "
            "parameters, d L / d theta at given samples, is lost or changed; it comes with the loss's value, whose graph "
            "must be kept"
        )
    return None


def _of_nodes(pairs: dict[str, tuple[Tensor, Tensor]], tolerance: float, samples: int) -> tuple[str, str] | None:
    """The coarsest parts of which each is a multiple of its exact gradient: all nodes, each node, each unit, each example."""
    if all(_factor(*pair, tolerance) == 1.0 for pair in pairs.values()):
        return None
    batch = next(iter(pairs.values()))[0].shape[0]
    whole = (torch.cat([mean.flatten() for mean, _ in pairs.values()]), torch.cat([g.flatten() for _, g in pairs.values()]))
    for cause, parts in (
        ("multiple", [("every node", whole)]),
        ("node", [(node_of(name), pair) for name, pair in pairs.items()]),
        ("unit", list(_split(pairs, "unit"))),
        ("example", list(_split(pairs, "example"))),
    ):
        wrong = [(where, f, pair[1].count_nonzero()) for where, pair in parts if (f := _factor(*pair, tolerance)) != 1.0]
        # A single entry is a multiple of any other: then only a factor that is known says something.
        told = all(f is not None and (several > 1 or list(_hints(f, batch, samples))) for _, f, several in wrong)
        if told:
            return cause, _said([(where, f) for where, f, _ in wrong if f is not None], batch, samples)
    return None


def _split(pairs: dict[str, tuple[Tensor, Tensor]], by: str) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    for name, (mean, gradient) in pairs.items():
        if by == "example":
            yield from ((f"{node_of(name)}, example {n}", (mean[n], gradient[n])) for n in range(len(mean)))
        elif mean.numel():
            for flat in range(mean[0].numel()):
                index = tuple(
                    int(i) for i in torch.unravel_index(torch.tensor(flat, dtype=torch.int64, device="cpu"), mean.shape[1:])
                )
                yield f"{node_of(name)}, logit {list(index)}", (mean.flatten(1)[:, flat], gradient.flatten(1)[:, flat])


def _factor(mean: Tensor, gradient: Tensor, tolerance: float) -> float | None:
    """c where mean = c gradient, 1 where they are equal; None where no c does."""
    size = float(gradient.abs().max()) if gradient.numel() else 0.0
    scale = tolerance * max(1.0, size)
    if not gradient.numel() or float((mean - gradient).abs().max()) <= scale:
        return 1.0
    if size <= scale:
        return None
    factor = float((mean * gradient).sum() / gradient.square().sum())
    factor = 0.0 if abs(factor) < 1e-9 else factor
    return factor if float((mean - factor * gradient).abs().max()) <= 1e-7 * size + scale else None


def _said(wrong: list[tuple[str, float]], batch: int, samples: int) -> str:
    listed = ", ".join(f"{factor:.6g} times the exact gradient at {where}" for where, factor in wrong[:4])
    more = f" and at {len(wrong) - 4} more" if len(wrong) > 4 else ""
    hints = dict.fromkeys(hint for _, factor in wrong for hint in _hints(factor, batch, samples))
    return f"with respect to the logits it is {listed}{more}" + (f": {', or '.join(hints)}" if hints else "")


def _hints(factor: float, batch: int, samples: int) -> Iterator[str]:
    """What is known for factors of this kind, for a batch of so many examples and so many samples."""
    known = [
        (0.0, "nothing is credited, or a cost in which the sample has no part (another example's, another run's)"),
        (-1.0, "the sign: the loss is to be minimised"),
        (2.0, "counted twice"),
    ]
    for count, what in ((batch, f"the batch of {batch}"), (samples, f"the {samples} samples")):
        if count > 1:
            known += [
                (float(count), f"summed over {what} instead of averaged"),
                (1 / count, f"divided by {what} once too often"),
            ]
    for count in sorted({batch, samples, batch * samples} - {1}):
        known += [(1 - 1 / count, f"a baseline that contains the sample's own cost, as one of {count}")]
    yield from (hint for value, hint in known if abs(factor - value) < 1e-6)
