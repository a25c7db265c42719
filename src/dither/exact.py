"""The oracle: sums over all joint outcomes of the library's own samplers, for nets small enough.

Each node says how its noise falls into cells of known weight (`Node.cells`): two per binary unit, K per categorical one,
quadrature points for a continuous one. The closure runs once, on every combination of cells at once (`torch.func.vmap`),
with representative noise from each cell put where the random noise would be. So what is enumerated is the library's own
code path, from noise to gradient.

- `expected_cost`, `gradient`: of the model itself. Examples of a batch are independent, so they share the combinations.
- `moments`: the exact expectation and variance of an *estimator's* gradient, over all its samples and examples jointly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from dither.nodes import Node, named_nodes, taken_over

Closure = Callable[[], Tensor]
MAX_OUTCOMES = 1 << 16
CHUNK = 1 << 14  # outcomes summed at a time: bounds the memory
_DEPENDS = (
    "the nodes called, or their shapes, change from one run of the closure to the next: such a closure cannot be enumerated; "
    "estimate by a long average, dither.audit(..., reference='average')"
)


class CannotEnumerate(ValueError):
    """The closure's outcomes cannot be summed over."""


class TooManyOutcomes(CannotEnumerate):
    """There are more joint outcomes than allowed. `outcomes`: how many."""

    def __init__(self, outcomes: int, draws: list[tuple[int, int]], limit: int) -> None:
        units = ", ".join(f"{count} with {cells} cells" for cells, count in draws)
        size = (
            str(outcomes) if outcomes < 10**7 else f"{outcomes:.1e}" if outcomes < 10**300 else f"2^{outcomes.bit_length() - 1}"
        )
        super().__init__(
            f"{size} joint outcomes (units drawn: {units}) exceed max_outcomes={limit}: enumerate a smaller net or batch, or "
            "estimate by a long average, dither.audit(..., reference='average')"
        )
        self.outcomes = outcomes


@dataclass(frozen=True)
class Expectation:
    """cost: exact expected cost per example, (batch,) or (batch, terms), differentiable; outcomes: how many were summed."""

    cost: Tensor
    outcomes: int


@dataclass(frozen=True)
class Moments:
    """Exact moments of an estimator's output: per parameter name the mean and variance of its gradient, the expectation
    of the loss's value, and the number of joint outcomes summed."""

    mean: dict[str, Tensor]
    variance: dict[str, Tensor]
    value: Tensor
    outcomes: int


class _Enumeration:
    """A noise source that walks through cells: first it notes what is drawn (layout), then it replays given cells.

    Noise that an estimator asks for twice by one key is the same noise. Where the second request is for other logits, whose
    threshold may divide the cell found first, the cell is cut once more (`_refined`).
    """

    def __init__(self, joint: bool) -> None:
        self.joint = joint  # whether examples are enumerated jointly, or share the combinations
        self.layout: list[tuple[int, int]] = []
        self.replaying = False
        self.row: Tensor | None = None

    def start(self, row: Tensor | None) -> None:
        self.replaying, self.row, self.position, self.call = row is not None, row, 0, 0
        self.log_weight: Tensor | float = 0.0
        self._drawn: dict[Any, Tensor] = {}
        self._between: dict[Any, tuple[Tensor, Tensor]] = {}
        if row is None:
            self.layout = []

    def __call__(self, node: Node, logits: Tensor, key: Any = None, owner: Any = None, same: Any = True) -> Tensor:
        if key is not None:
            site, stream, sample = key
            key = (site, stream, int(sample))
            if key in self._drawn and (bool(same) or key not in self._between):
                return self._drawn[key]
            breaks = owner.breaks(node, logits.detach(), stream)
            if breaks is not None:
                return self._refined(key, breaks, getattr(owner, "points", (0.0,)))
            own = owner.cells(node, logits.detach(), stream)
        noise, log_weight = node.cells(logits) if key is None or own is None else own
        drawn = self._pick(noise, log_weight)
        if key is not None:
            self._drawn[key] = drawn
        return drawn

    def _pick(self, noise: Tensor, log_weight: Tensor) -> Tensor:
        """The noise of one cell per unit. noise, log_weight: cells in the leading dimension."""
        if self.joint:
            noise = noise.detach()  # an estimator differentiates at given noise; the model's expectation moves with its cells
        shape = log_weight.shape[1:] if self.joint else (1, *log_weight.shape[2:])
        count, cells = math.prod(shape), len(log_weight)
        if not self.replaying:
            self.layout.append((cells, count))
            return noise[0]
        if self.call >= len(self.layout) or self.layout[self.call] != (cells, count):
            raise CannotEnumerate(_DEPENDS)
        assert self.row is not None
        digits = self.row[self.position : self.position + count].view(shape).expand(log_weight.shape[1:])
        self.call, self.position = self.call + 1, self.position + count
        weight = log_weight.gather(0, digits.unsqueeze(0)).squeeze(0)
        self.log_weight = self.log_weight + weight.reshape(len(weight), -1).sum(1)
        spread = digits.view(*digits.shape, *[1] * (noise.dim() - 1 - digits.dim())).expand(noise.shape[1:])
        return noise.gather(0, spread.unsqueeze(0)).squeeze(0)

    def _refined(self, key: Any, breaks: Tensor, points: tuple[float, ...]) -> Tensor:
        """A point of an interval between thresholds, inside the interval found for this key before, if any.

        points: of [-1, 1], of equal weight; the middle alone, unless the estimator uses the noise's value.
        """
        low, high = self._between.get(key, (torch.zeros_like(breaks[0]), torch.ones_like(breaks[0])))
        edges = torch.cat((low.unsqueeze(0), breaks.sort(0).values, high.unsqueeze(0))).clamp(low, high)
        width = high - low  # 0 for an outcome that cannot be, whose weight is 0 already
        weight = (edges[1:] - edges[:-1]) / torch.where(width > 0, width, torch.ones_like(width))
        middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
        cells = [torch.stack((edges[:-1], edges[1:], middle + x * half), -1) for x in points]
        picked = self._pick(torch.cat(cells), (weight / len(points)).log().repeat(len(points), *[1] * (weight.dim() - 1)))
        self._between[key] = (picked[..., 0], picked[..., 1])
        self._drawn[key] = picked[..., 2]
        return self._drawn[key]

    def finish(self) -> None:
        """Every unit of the layout must have been drawn again, else weights would not sum to one."""
        if self.replaying and self.call != len(self.layout):
            raise CannotEnumerate(_DEPENDS)

    def outcomes(self) -> int:
        return math.prod(cells**count for cells, count in self.layout)

    def rows(self, limit: int) -> Tensor:
        """Every combination of cells, (outcomes, units drawn) int64."""
        outcomes = self.outcomes()
        if outcomes > limit:
            raise TooManyOutcomes(outcomes, self.layout, limit)
        radices = [cells for cells, count in self.layout for _ in range(count)]
        index, columns = torch.arange(outcomes), []
        for radix in radices:
            columns.append(index % radix)
            index = index // radix
        return torch.stack(columns, 1) if columns else torch.zeros(1, 0, dtype=torch.int64)


def _plain(node: Node, logits: Tensor) -> Tensor:
    assert node._source is not None
    noise = node._source(node, logits)
    return node.emit(logits, node.outcome(logits, noise)) if node.discrete else node.propagate(logits, noise)


def _over(run: Callable[..., Any], rows: Tensor, vectorize: bool, *batched: Any) -> Any:
    if vectorize:
        return torch.func.vmap(run, randomness="same")(rows, *batched)
    results = [run(row, *tree_map(lambda t, i=i: t[i], batched)) for i, row in enumerate(rows)]
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def expectation(
    nodes: Mapping[str, Node], closure: Closure, *, max_outcomes: int = MAX_OUTCOMES, vectorize: bool = True
) -> Expectation:
    """The exact expected cost of each example over the given nodes' outcomes; see `expected_cost`."""
    source = _Enumeration(joint=False)

    def run(row: Tensor | None) -> tuple[Tensor, Tensor]:
        source.start(row)
        with taken_over(nodes.values(), _handler=_plain, _source=source):
            cost = closure()
        source.finish()
        if cost.dim() == 0:
            raise ValueError(
                'the closure returned a scalar cost: one cost per example, shape (batch,), is needed; use reduction="none"'
            )
        return cost, torch.as_tensor(source.log_weight)

    with torch.no_grad():
        run(None)
    rows = source.rows(max_outcomes)
    costs, log_weights = _over(run, rows, vectorize)
    weights = log_weights.exp()
    if weights.dim() > 1 and weights.shape[1] != costs.shape[1]:
        raise ValueError(
            f"the nodes got logits for {weights.shape[1]} examples but the closure returned a cost for {costs.shape[1]}: the "
            "first dimension of logits must be the batch, example by example; reshape (batch * time, units) to (batch, time, "
            "units)"
        )
    if weights.dim() > 1:
        weights = weights.view(*weights.shape, *[1] * (costs.dim() - 2))
    possible = (weights > 0).expand_as(costs)
    return Expectation((weights * torch.where(possible, costs, 0)).sum(0), len(rows))


def expected_cost(model: nn.Module, closure: Closure, *, max_outcomes: int = MAX_OUTCOMES, vectorize: bool = True) -> Tensor:
    """The exact expected cost of each example, sum over outcomes h of P(h) L(h); differentiable in the parameters.

    closure: returns costs (batch,) or (batch, terms), as for an estimator; the result has that shape. Each example's cost
    must depend on its own noise only. vectorize=False loops over outcomes, for closures that vmap cannot take.
    Raises TooManyOutcomes beyond max_outcomes = cells^units per example.
    """
    return expectation(named_nodes(model), closure, max_outcomes=max_outcomes, vectorize=vectorize).cost


def gradient(
    model: nn.Module, closure: Closure, *, max_outcomes: int = MAX_OUTCOMES, vectorize: bool = True
) -> dict[str, Tensor]:
    """The exact gradient of the mean expected cost (terms summed), per parameter name."""
    cost = expected_cost(model, closure, max_outcomes=max_outcomes, vectorize=vectorize)
    named = trainable(model)
    return dict(zip(named, parameter_gradients(cost.sum() / cost.shape[0], named.values()), strict=True))


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that ask for a gradient, by name, each once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def moments(
    estimator: Any,
    closure: Closure,
    *,
    max_outcomes: int = MAX_OUTCOMES,
    vectorize: bool = True,
    frozen: bool = True,
    variance: bool = True,
) -> Moments:
    """The exact expectation and variance of an estimator's gradient, over all its samples and all examples jointly.

    estimator: any of dither's. Its state (baselines) starts from its present values and is left as it was; with
    frozen=False it may learn during the call, as in training, which shows a baseline that sees its own sample.
    variance=False leaves the variance out, for half the work. The estimator's own output, the gradient of the loss it
    returns, is weighted by the probability of the noise behind it: nothing is sampled.
    """
    model, source = estimator.model, _Enumeration(joint=True)
    nodes, named = named_nodes(model), trainable(model)

    def run(row: Tensor | None) -> tuple[Tensor, Tensor]:
        source.start(row)
        with taken_over(nodes.values(), _source=source):
            loss = estimator(closure)
        source.finish()
        return loss, torch.as_tensor(source.log_weight).sum().detach()

    def run_apart(row: Tensor, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        with _replaced(model, {named[name]: p for name, p in parameters.items()}):
            return run(row)

    value: Any = 0.0
    mean = {name: torch.zeros_like(p) for name, p in named.items()}
    square = {name: torch.zeros_like(p) for name, p in named.items()}
    apart = {name: torch.zeros_like(p) for name, p in named.items()}
    with estimator.frozen() if frozen else _unchanged(estimator):
        rows = _laid_out(estimator, closure, source, run).rows(max_outcomes)
        for part in rows.split(CHUNK):
            losses, log_weights = _over(run, part, vectorize)
            weights = log_weights.exp().to(losses.dtype)
            possible = weights > 0
            value = value + (weights * losses.detach())[possible].sum()
            for name, grad in zip(named, parameter_gradients((weights * losses)[possible].sum(), named.values()), strict=True):
                mean[name] += grad
            if not variance:
                continue
            copies = {n: p.detach().expand(len(part), *p.shape).clone().requires_grad_() for n, p in named.items()}
            losses, _ = _over(run_apart, part, vectorize, copies)
            for name, grad in zip(named, parameter_gradients(losses[possible].sum(), copies.values()), strict=True):
                weight = weights.to(grad.dtype).view(-1, *[1] * (grad.dim() - 1))
                apart[name] += (weight * grad).sum(0)
                square[name] += (weight * grad.square()).sum(0)
    for name, grad in mean.items():
        _require_finite(grad, name)
        if variance and not torch.allclose(apart[name], grad, rtol=1e-4, atol=1e-6 * float(square[name].max().sqrt() + 1)):
            raise ValueError(
                f"the closure uses '{name}' other than through the model (a reference taken before the call), so its gradient "
                "per outcome is out of reach: look parameters up on the model inside the closure"
            )
    spread = {name: (square[name] - mean[name].square()).clamp(min=0) for name in mean} if variance else {}
    return Moments(mean, spread, value, len(rows))


def expected_loss(estimator: Any, closure: Closure, *, max_outcomes: int = MAX_OUTCOMES, vectorize: bool = True) -> Tensor:
    """The exact expectation of the loss that an estimator returns, the probabilities held constant: so each of its derivatives,
    of any order, is the expectation of that derivative of the loss. State (baselines) is left as it was.
    """
    source, nodes = _Enumeration(joint=True), named_nodes(estimator.model)

    def run(row: Tensor | None) -> tuple[Tensor, Tensor]:
        source.start(row)
        with taken_over(nodes.values(), _source=source):
            loss = estimator(closure)
        source.finish()
        return loss, torch.as_tensor(source.log_weight).sum().detach()

    with estimator.frozen():
        losses, log_weights = _over(run, _laid_out(estimator, closure, source, run).rows(max_outcomes), vectorize)
    return (log_weights.exp() * losses)[log_weights > -torch.inf].sum()


def outcomes(estimator: Any, closure: Closure) -> int:
    """How many joint outcomes `moments` would sum for this estimator on this closure."""
    source = _Enumeration(joint=True)
    nodes = named_nodes(estimator.model)

    def run(row: Tensor | None) -> None:
        source.start(row)
        with taken_over(nodes.values(), _source=source):
            estimator(closure)

    with _unchanged(estimator), estimator.frozen():
        return _laid_out(estimator, closure, source, run).outcomes()


def _laid_out(estimator: Any, closure: Closure, source: _Enumeration, run: Callable[[None], Any]) -> _Enumeration:
    """The source after a run that noted its layout; a first one lets the estimator learn how many runs it will make."""
    with torch.no_grad() if not getattr(estimator, "differentiates", False) else torch.enable_grad():
        if getattr(estimator, "planned", False):
            run(None)
        run(None)
    return source


@contextmanager
def _replaced(model: nn.Module, tensors: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Lets every outcome have parameters, and so a gradient, of its own. (torch.func.functional_call does not put a module
    that has two names in the model back as it was.)"""
    held = [(m, name, p) for m in model.modules() for name, p in m._parameters.items() if p is not None and p in tensors]
    try:
        for module, name, parameter in held:
            module._parameters[name] = tensors[parameter]  # type: ignore[assignment]
        yield
    finally:
        for module, name, parameter in held:
            module._parameters[name] = parameter


def parameter_gradients(total: Tensor, parameters: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """d total / d parameters, zeros for those that it does not depend on."""
    parameters = list(parameters)
    if not total.requires_grad:
        return tuple(torch.zeros_like(p) for p in parameters)
    return torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)


@contextmanager
def _unchanged(estimator: Any) -> Iterator[None]:
    state = {name: tensor.clone() for name, tensor in estimator.state_dict().items()}
    try:
        yield
    finally:
        estimator.load_state_dict(state)


def _require_finite(grad: Tensor, name: str) -> None:
    if not bool(torch.isfinite(grad).all()):
        raise ValueError(
            f"the gradient of '{name}' is not finite for some outcome: the estimator uses the noise beyond the outcome that it "
            "gives (as Gumbel-softmax does), so that a sum over outcomes is not its expectation; estimate it by a long average"
        )


def concatenate(gradients: Mapping[str, Tensor] | Iterable[Tensor]) -> Tensor:
    """All gradients as one vector."""
    values = gradients.values() if isinstance(gradients, Mapping) else gradients
    return torch.cat([g.reshape(-1) for g in values])
