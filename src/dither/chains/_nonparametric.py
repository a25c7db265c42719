"""The chain of any denoiser; and counts, a denoiser without parameters for few states, whose limit is known.

>>> import torch
>>> from dither import corruption
>>> states = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
>>> x, corrupted = torch.tensor([0, 0, 3, 3]), torch.tensor([0, 1, 1, 3])
>>> learned = Counts.fit(x, corrupted, states, unseen="uniform")
>>> learned.conditional()[1]  # of the two pairs with x~ = (0, 1), one had x = (0, 0) and one (1, 1)
tensor([0.5000, 0.0000, 0.0000, 0.5000], dtype=torch.float64)
>>> chain = Denoiser(corruption.SaltAndPepper(0.4), learned)
>>> chain.step(chain.start(states)).x.shape
torch.Size([4, 2])

Source: Bengio, Yao, Alain and Vincent 2013 (generalized denoising auto-encoders), Sec. 2.2 and Fig. 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from dither import noise
from dither.chains._run import State
from dither.chains._sampling import blocks, categorical_index, checked_clamp


class Conditional(Protocol):
    """P(x | x~) that can be sampled, also given a part of x."""

    def sample(self, corrupted: Tensor, clamp: Tensor | None = None, values: Tensor | None = None) -> Tensor: ...


class Denoiser:
    """The chain of any corruption and any conditional: x~ ~ C(x~ | x), x ~ P(x | x~).

    corruption      x (chains, units) -> x~, such as those of `dither.corruption`
    conditional     with sample(x~, clamp, values) -> x
    With a clamp the chain corrupts all of x, clamped units too, and samples x given their values. It converges to the
    conditional of its own distribution where P(x | x~) and C(x~ | x) belong to one joint, and only there
    (docs/experiments/gdae-consistency.md).
    Source: GDAE paper, Eq. 1-2; GSN paper, Proposition 1.
    """

    def __init__(self, corruption: Callable[[Tensor], Tensor], conditional: Conditional) -> None:
        self.corruption, self.conditional = corruption, conditional

    def start(self, x: Tensor) -> State:
        return State(x.detach())

    @torch.no_grad()
    def step(self, state: State, clamp: Tensor | None = None, values: Tensor | None = None) -> State:
        """The next state. clamp: bool, (units,) or (chains, units); values (chains, units), read where clamped."""
        x = state.x
        if clamp is not None and values is not None:
            x = torch.where(clamp, values.to(x.dtype), x)  # the start may be elsewhere, and must not leak into the first x~
        return State(self.conditional.sample(self.corruption(x), clamp, values))


class Counts:
    """P(x | x~) between finitely many states by maximum likelihood: the share of x among the pairs with this x~.

    counts              (X~, X): how often each pair was seen; or other weights, such as an exact P(x | x~)
    states              (X, units), no two the same
    corrupted_states    (X~, units), the same as states if left out
    pseudo_count        is added to every entry of counts
    unseen              "raise": a state x~ that no pair had has no maximum-likelihood estimate, and its use is an
                        error; "uniform": there x is uniform over the states
    Raises              ValueError for counts that do not fit, are negative or not finite, and for equal states.
    """

    def __init__(
        self,
        counts: Tensor,
        states: Tensor,
        *,
        corrupted_states: Tensor | None = None,
        pseudo_count: float = 0.0,
        unseen: Literal["raise", "uniform"] = "raise",
    ) -> None:
        self.states = _distinct("states", states)
        self.corrupted_states = self.states if corrupted_states is None else _distinct("corrupted_states", corrupted_states)
        shape = (len(self.corrupted_states), len(self.states))
        if counts.shape != shape:
            raise ValueError(f"counts has shape {tuple(counts.shape)}: a row per x~ and a column per x are needed, {shape}")
        if not (torch.isfinite(counts).all() and (counts >= 0).all()):
            raise ValueError("counts holds a negative or infinite value or NaN: it must say how often each pair was seen")
        if not (pseudo_count >= 0 and math.isfinite(pseudo_count)):
            raise ValueError(f"pseudo_count is {pseudo_count}: a finite number, 0 or more, is needed")
        if unseen not in ("raise", "uniform"):
            raise ValueError(f"unseen is {unseen!r}: choose 'raise' or 'uniform'")
        self.counts = counts.detach().to(self.states.device, torch.float64) + pseudo_count
        if unseen == "uniform":
            self.counts = torch.where(self.counts.sum(1, keepdim=True) > 0, self.counts, 1.0)

    @classmethod
    def fit(
        cls,
        x_index: Tensor,
        corrupted_index: Tensor,
        states: Tensor,
        pseudo_count: float = 0.0,
        *,
        corrupted_states: Tensor | None = None,
        unseen: Literal["raise", "uniform"] = "raise",
    ) -> Counts:
        """From pairs: x_index, corrupted_index (pairs,) int64 are rows of states and of corrupted_states."""
        if x_index.shape != corrupted_index.shape or x_index.dim() != 1:
            raise ValueError(
                f"x_index has shape {tuple(x_index.shape)} and corrupted_index {tuple(corrupted_index.shape)}: (pairs,) is "
                "needed of both"
            )
        rows, columns = len(states if corrupted_states is None else corrupted_states), len(states)
        for name, index, count in (("x_index", x_index, columns), ("corrupted_index", corrupted_index, rows)):
            if index.numel() and (int(index.min()) < 0 or int(index.max()) >= count):
                raise ValueError(f"{name} runs from {int(index.min())} to {int(index.max())}: there are {count} states")
        counts = torch.bincount(corrupted_index * columns + x_index, minlength=rows * columns).view(rows, columns)
        return cls(counts, states, corrupted_states=corrupted_states, pseudo_count=pseudo_count, unseen=unseen)

    def conditional(self) -> Tensor:
        """P(x | x~), (X~, X) float64. Raises ValueError where some x~ was never seen (see `unseen`)."""
        return self._normalised(torch.arange(len(self.counts), device=self.counts.device, dtype=torch.int64))

    def log_prob(self, corrupted: Tensor, x: Tensor) -> Tensor:
        """log P(x | x~): (batch, units) of both -> (batch,) float64, -inf for what was never seen."""
        rows = self._normalised(_position("corrupted", corrupted, self.corrupted_states))
        return rows.gather(1, _position("x", x, self.states).unsqueeze(1)).squeeze(1).log()

    def sample(self, corrupted: Tensor, clamp: Tensor | None = None, values: Tensor | None = None) -> Tensor:
        """A sample of x (batch, units) given x~, and given x[clamp] = values[clamp] if there is a mask."""
        weights = self._normalised(_position("corrupted", corrupted, self.corrupted_states))
        clamp, values = checked_clamp(clamp, values, corrupted)
        if clamp is not None and values is not None:
            for rows in blocks(len(weights), self.states.numel()):
                fits = (self.states == values[rows].unsqueeze(1)) | ~clamp[rows].unsqueeze(1)
                weights[rows] *= fits.all(-1)
            impossible = (weights.sum(1) == 0).nonzero().flatten()
            if len(impossible):
                raise ValueError(
                    f"no state with the clamped values of row {int(impossible[0])} was ever seen with its x~: their "
                    "conditional does not exist; give a pseudo_count, or more pairs"
                )
        u = noise.fresh("uniform", tuple(corrupted[:, :1].shape), corrupted.device).draw(corrupted[:, :1])
        return self.states[categorical_index(weights, u)]

    def _normalised(self, index: Tensor) -> Tensor:
        counts = self.counts[index]
        total = counts.sum(1, keepdim=True)
        if (total == 0).any():
            state = self.corrupted_states[index[total.flatten() == 0][0]].tolist()
            raise ValueError(
                f"the corrupted state {state} is in no pair, so P(x | x~) has no maximum-likelihood estimate there; give more "
                "pairs, a pseudo_count, or unseen='uniform'"
            )
        return counts / total


def _distinct(name: str, states: Tensor) -> Tensor:
    if states.dim() != 2 or not states.numel():
        raise ValueError(f"{name} has shape {tuple(states.shape)}: a row per state is needed, (states, units)")
    if len(torch.unique(states, dim=0)) < len(states):
        raise ValueError(f"{name} has {len(states)} rows, and some are equal: a state must be listed once; remove the copies")
    return states.detach()


def _position(name: str, x: Tensor, states: Tensor) -> Tensor:
    """Which state each row of x is: (batch,) int64."""
    if x.dim() != 2 or x.shape[1] != states.shape[1]:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: (batch, {states.shape[1]}) is needed, as the states have")
    position = torch.empty(len(x), dtype=torch.int64, device=x.device)
    for rows in blocks(len(x), states.numel()):
        same = (x[rows].unsqueeze(1) == states).all(-1)
        unknown = (~same.any(1)).nonzero().flatten()
        if len(unknown):
            raise ValueError(f"{name} holds {x[rows][unknown[0]].tolist()}, which is none of the {len(states)} states")
        position[rows] = same.to(torch.uint8).argmax(1)
    return position
