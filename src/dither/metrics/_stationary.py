"""Markov chains on few states, exactly: their classes and period, where they converge, and how fast."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dither.metrics._discrete import check_rows


@dataclass(frozen=True)
class Structure:
    """The classes and period of a chain; see `structure`."""

    irreducible: bool  # every state is reached from every other
    period: int  # of the closed class; the least common multiple if there are several
    closed_classes: tuple[tuple[int, ...], ...]  # sets of states that are never left, each in rising order
    transient: int  # how many states are in none of them

    @property
    def ergodic(self) -> bool:
        """One closed class of period 1: the chain forgets where it started."""
        return len(self.closed_classes) == 1 and self.period == 1


def structure(matrix: Tensor) -> Structure:
    """Closed classes and period of a chain, by search in the graph of the transitions > 0, however small they are.

    Shapes      matrix (states, states): row x is the distribution of the next state.
    Raises      ValueError if it is not square or a row is no distribution.
    """
    edges = _chain(matrix) > 0
    unseen = torch.ones(len(edges), dtype=torch.bool, device=edges.device)
    pool, closed = unseen, []
    while bool(unseen.any()):
        start = int(pool.nonzero()[0])
        ahead, behind = _reached(edges, start) >= 0, _reached(edges.T, start) >= 0
        # All of `behind` reach `start`: they are in its closed class, or transient. So no unseen state reaches a seen one.
        unseen, leaves = unseen & ~behind, ahead & ~behind
        if bool(leaves.any()):
            pool = leaves  # on, towards a closed class
        else:
            pool = unseen
            closed.append(ahead.nonzero().flatten())
    classes = tuple(sorted(tuple(members.tolist()) for members in closed))
    periods = [_period(edges[members][:, members]) for members in closed]
    transient = len(edges) - sum(len(members) for members in closed)
    return Structure(transient == 0 and len(closed) == 1, math.lcm(*periods), classes, transient)


def stationary(matrix: Tensor) -> Tensor:
    """The distribution pi with pi T = pi, (states,) float64; 0 at states that are left for ever.

    Computes    the elimination of Grassmann, Taksar and Heyman, which never subtracts: every entry is right to about
                1e-16 · states relative, however slowly the chain mixes. O(states³): a second for 1,000 states.
    Raises      ValueError if several closed classes make pi ambiguous, naming them; and as `structure`.
    """
    closed, *others = classes = structure(matrix).closed_classes
    if others:
        shown = "; ".join(_some(members) for members in classes[:4]) + "; ..." * (len(classes) > 4)
        raise ValueError(
            f"the chain has {len(classes)} closed classes of states ({shown}), each with its own stationary "
            "distribution: pass one class's rows and columns, or a corruption that joins them"
        )
    members = torch.tensor(closed, device=matrix.device, dtype=torch.int64)
    part = matrix.detach().to(torch.float64)[members][:, members]
    weights = torch.ones(len(members), dtype=torch.float64, device=matrix.device)
    for k in range(len(members) - 1, 0, -1):  # the chain watched only while it is in the first k states
        part[:k, k] /= part[k, :k].sum()
        part[:k, :k].addr_(part[:k, k], part[k, :k])
    for k in range(1, len(members)):
        weights[k] = weights[:k] @ part[:k, k]
    if not bool(torch.isfinite(weights).all()):
        raise ValueError("matrix holds transitions so unlikely (towards 1e-308) that float64 cannot tell them from none")
    result = torch.zeros(len(matrix), dtype=torch.float64, device=matrix.device)
    result[members] = weights / weights.sum()
    return result


def second_eigenvalue(matrix: Tensor) -> float:
    """The second largest modulus of an eigenvalue: the factor per step by which the distance to pi shrinks in the end.

    Returns     1.0 exactly for a chain that is not `Structure.ergodic`; 0 for a chain of a single state.
    Raises      ValueError as `structure`.
    """
    matrix = _chain(matrix)
    if not structure(matrix).ergodic:
        return 1.0
    if len(matrix) == 1:
        return 0.0
    return float(torch.linalg.eigvals(matrix).abs().sort(descending=True).values[1])


def mixing_time_scale(matrix: Tensor) -> float:
    """Steps for the distance to pi to shrink by e in the end, -1 / log(second_eigenvalue): 0 ... infinity."""
    value = second_eigenvalue(matrix)
    return 0.0 if value == 0 else math.inf if value >= 1 else -1 / math.log(value)


def _chain(matrix: Tensor) -> Tensor:
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or matrix.numel() == 0:
        raise ValueError(f"matrix has shape {tuple(matrix.shape)}: a square matrix of transitions (states, states) is needed")
    return check_rows("matrix", matrix.detach().to(torch.float64))


def _reached(edges: Tensor, start: int) -> Tensor:
    """Fewest steps from `start` to every state, (states,); -1 for those out of reach."""
    steps = torch.full((len(edges),), -1, device=edges.device, dtype=torch.int64)
    front, step = torch.zeros_like(edges[0]), 0
    front[start] = True
    while bool(front.any()):
        steps[front] = step
        front, step = edges[front].any(0) & (steps < 0), step + 1
    return steps


def _period(edges: Tensor) -> int:
    """Greatest common divisor of the lengths of the cycles of a graph in which every state reaches every other."""
    steps = _reached(edges, 0)
    # An edge u -> v closes cycles whose lengths differ by steps[u] + 1 - steps[v]. These differences generate all lengths.
    return math.gcd(*(steps.unsqueeze(1) + 1 - steps)[edges].unique().tolist())


def _some(members: tuple[int, ...]) -> str:
    return "{" + ", ".join(map(str, members[:6])) + (f", ... {len(members)} states" if len(members) > 6 else "") + "}"
