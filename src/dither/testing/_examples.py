"""Whether every example of a batch keeps to its own row: what credit by example takes for granted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dither.estimators.core.mixing import Redrawn
from dither.nodes import Node, cost_alone, named_nodes, present_rows
from dither.noise import draw_seed
from dither.testing._unbiased import CheckFailed


def assert_examples_separate(model: nn.Module, closure: Callable[[], Tensor], *, draws: int = 8) -> None:
    """Raise CheckFailed if what is sampled in row i of a node's logits changes the cost of another example than i.

    >>> import torch, dither
    >>> node, logits = dither.Bernoulli(), torch.zeros(2, 2)  # (time, batch), where time == batch: no shape tells
    >>> dither.testing.assert_examples_separate(node, lambda: node(logits.T).sum(1))
    >>> dither.testing.assert_examples_separate(node, lambda: node(logits).sum(0))  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    dither.testing._unbiased.CheckFailed: [examples] on this model: row 1 of the logits of node 'node' changes the cost ...

    Estimators credit row i of all logits with cost i alone: costs of other rows are noise, or, where there is no check on the
    shapes, a wrong gradient. The closure runs draws x (1 + examples) times: once by some noise, and once with the noise of one
    row drawn anew. A row that matters only rarely takes more draws.
    """
    nodes, closure = named_nodes(model), cost_alone(closure)
    for _ in range(draws):
        seeds = int(draw_seed()), int(draw_seed())
        before = _costs(nodes, closure, seeds, -1)
        for row in range(len(before)):
            changed = (_costs(nodes, closure, seeds, row) != before).any(1)
            changed[row] = False
            if bool(changed.any()):
                raise CheckFailed("examples", "this model", _message(list(nodes), row, int(changed.nonzero()[0])))


def _message(nodes: list[str], row: int, example: int) -> str:
    which = f"node '{nodes[0]}'" if len(nodes) == 1 else f"nodes {', '.join(nodes)}"
    return (
        f"row {row} of the logits of {which} changes the cost of example {example}: the first dimension of logits must be the "
        "batch, in the order of the costs; give time-first logits (time, batch, units) as logits.transpose(0, 1), and keep "
        "layers that mix examples (batch norm) before the nodes"
    )


@torch.no_grad()
def _costs(nodes: dict[str, Node], closure: Callable[[], Tensor], seeds: tuple[int, int], row: int) -> Tensor:
    """The costs, (batch, terms), with the noise of one row drawn by the second seed."""

    def where(node: Node, logits: Tensor) -> Tensor:
        rows = present_rows()
        own = torch.arange(len(logits), device=logits.device, dtype=torch.int64) if rows is None else rows.index
        return own == row

    return Redrawn(nodes, closure, where, seeds).costs
