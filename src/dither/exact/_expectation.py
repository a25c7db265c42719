"""The exact expected cost of a model and its gradient: sums over the outcomes of its nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither.exact._enumeration import MAX_OUTCOMES, Enumeration, over, walk
from dither.exact._path import Path
from dither.nodes import Node, as_module, cost_alone, eagerly, named_nodes, refuse_within_rows, taken_over

Closure = Callable[[], Tensor]


@dataclass(frozen=True)
class Expectation:
    """cost: exact expected cost per example, (batch,) or (batch, terms), differentiable; outcomes: how many were summed;
    calls: of nodes, in one run of the closure (the longest)."""

    cost: Tensor
    outcomes: int
    calls: int


def _plain(node: Node, logits: Tensor) -> Tensor:
    assert node._source is not None
    noise = node._source(node, logits)
    return node.output(logits, node.sample(logits, noise)) if node.discrete else node.propagate(logits, noise)


def expectation(
    nodes: Mapping[str, Node], closure: Closure, *, max_outcomes: int = MAX_OUTCOMES, vectorize: bool = True
) -> Expectation:
    """The exact expected cost of each example over the given nodes' outcomes; see `expected_cost`."""
    source, closure = Enumeration(joint=False), cost_alone(closure)
    refuse_within_rows("dither.exact")

    def run(row: Tensor | Path | None) -> tuple[Tensor, Tensor]:
        source.start(row)
        with taken_over(nodes.values(), handler=_plain, source=source, only="dither.exact"):
            cost = eagerly(closure)  # compiled code does not see a source
        source.finish()
        if cost.dim() == 0:
            raise ValueError(
                'the closure returned a scalar cost: one cost per example, shape (batch,), is needed; use reduction="none"'
            )
        return cost, source.log_weight(len(cost))

    if not vectorize:
        return _walked(run, source, max_outcomes)
    with torch.no_grad():
        run(None)
    rows = source.rows(max_outcomes)
    costs, log_weights = over(run, rows)
    return Expectation(_weighed(costs, log_weights).sum(0), len(rows), len(source.layout))


def _walked(run: Callable[[Path], tuple[Tensor, Tensor]], source: Enumeration, max_outcomes: int) -> Expectation:
    costs, calls = [], 0
    for cost, log_weight in walk(run, source, max_outcomes):
        costs.append(_weighed(cost.unsqueeze(0), log_weight.unsqueeze(0)).squeeze(0))
        calls = max(calls, len(source.layout))
    terms = max(cost[0].numel() if cost.dim() > 1 else 0 for cost in costs)
    padded = [F.pad(cost, (0, terms - cost.shape[1])) if cost.dim() > 1 else cost for cost in costs]
    return Expectation(torch.stack(padded).sum(0), len(costs), calls)


def _weighed(costs: Tensor, log_weights: Tensor) -> Tensor:
    """costs (outcomes, batch, ...), each times its probability; 0 for what cannot be."""
    weights = log_weights.exp()
    if weights.dim() > 1 and weights.shape[1] != costs.shape[1]:
        raise ValueError(
            f"the nodes got logits for {weights.shape[1]} examples but the closure returned a cost for {costs.shape[1]}: the "
            "first dimension of logits must be the batch, example by example; reshape (batch * time, units) to (batch, time, "
            "units)"
        )
    weights = weights.view(*weights.shape, *[1] * (costs.dim() - weights.dim()))
    possible = (weights > 0).expand_as(costs)
    return weights * torch.where(possible, costs, 0)


def expected_cost(
    model: nn.Module | Sequence[nn.Module], closure: Closure, *, max_outcomes: int = MAX_OUTCOMES, vectorize: bool = True
) -> Tensor:
    """The exact expected cost of each example, sum over outcomes h of P(h) L(h); differentiable in the parameters.

    closure: returns costs (batch,) or (batch, terms), as for an estimator; the result has that shape. Each example's cost
    must depend on its own noise only. vectorize=False takes outcome after outcome: for closures that vmap cannot take, and for
    those in which Python looks at samples, which may then call other nodes in each run (a net that stops early).
    Raises TooManyOutcomes beyond max_outcomes = outcomes^units per example.
    """
    return expectation(named_nodes(as_module(model)), closure, max_outcomes=max_outcomes, vectorize=vectorize).cost


def gradient(
    model: nn.Module | Sequence[nn.Module], closure: Closure, *, max_outcomes: int = MAX_OUTCOMES, vectorize: bool = True
) -> dict[str, Tensor]:
    """The exact gradient of the mean expected cost (terms summed), per parameter name."""
    cost = expected_cost(model, closure, max_outcomes=max_outcomes, vectorize=vectorize)
    named = trainable(model)
    return dict(zip(named, parameter_gradients(cost.sum() / max(len(cost), 1), named.values()), strict=True))


def trainable(model: nn.Module | Sequence[nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters that ask for a gradient, by name, each once."""
    return {name: p for name, p in as_module(model).named_parameters() if p.requires_grad}


def parameter_gradients(total: Tensor, parameters: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """d total / d parameters, zeros for those that it does not depend on."""
    parameters = list(parameters)
    if not total.requires_grad:
        return tuple(torch.zeros_like(p) for p in parameters)
    return torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)


def concatenate(gradients: Mapping[str, Tensor] | Iterable[Tensor]) -> Tensor:
    """All gradients as one vector."""
    values = gradients.values() if isinstance(gradients, Mapping) else gradients
    return torch.cat([g.reshape(-1) for g in values])
