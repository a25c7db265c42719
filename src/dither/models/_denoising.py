"""What denoising models share: walkback training and the chain that samples (GDAE paper, Algorithms 1 and 2)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dither import corruption, kernels, noise
from dither.chains import State
from dither.models._products import UpDown
from dither.reconstruction import Reconstruction

LONGEST = 1000

Hidden = tuple[Tensor | None, ...]  # layers, () or None where nothing has reached them yet
Shared = Sequence[UpDown] | None


@dataclass(frozen=True)
class Geometric:
    """Walks of random length, one for each example: after every step it goes on with probability p (Algorithm 2)."""

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise ValueError(f"p is {self.p}: it must be between 0 and 1; steps=1 is no walk, steps=5 a fixed one")


class Denoising(nn.Module):
    """Base: learns P(x | x~) from corrupted examples, and samples by corrupting and reconstructing in turn.

    steps             of a walk: an integer, or `Geometric(p)`
    through_samples   whether the samples on the walk have a gradient (by their node's sampler, or by the estimator that
                      has taken it over); in the papers' recipes they are detached
    corrupt_clamped   whether a chain corrupts its clamped units too, as in the papers. False is as right with an exact
                      P(x | x~), and nearer to the data with a factorised one (docs/experiments/gdae-consistency.md)
    """

    def __init__(
        self,
        units: int,
        corrupt: corruption.Corruption | None,
        reconstruction: Reconstruction,
        steps: int | Geometric,
        through_samples: bool,
    ) -> None:
        super().__init__()
        if not isinstance(steps, Geometric) and (type(steps) is not int or steps < 1):
            raise ValueError(f"steps is {steps!r}: an integer of at least 1 is needed, or Geometric(p)")
        self.units, self.steps, self.through_samples = units, steps, through_samples
        self.corruption, self.reconstruction, self.corrupt_clamped = corrupt, reconstruction, True

    @abstractmethod
    def reconstruct(
        self, corrupted: Tensor, hidden: Hidden = (), products: Shared = None, last: bool = False
    ) -> tuple[Tensor, Hidden]:
        """(outputs for the reconstruction distribution, hidden layers to start the next step from).

        hidden      those of the step before, () to begin with
        products    those of the walk
        last        no step follows: only the layers that the outputs need are computed
        """

    def products(self) -> Shared:
        """What the steps of one walk share; an argument of each `reconstruct`."""
        return None

    # --- training -------------------------------------------------------------------------------------------------------
    def cost(self, x: Tensor) -> Tensor:
        """-log P(x | ...) summed over the steps of a walk away from x: (batch, units) -> (batch,), in nats."""
        return self.costs(x).sum(-1)

    def costs(self, x: Tensor) -> Tensor:
        """The same for each step, (batch, steps), 0 where a walk has ended: terms of a sum, as estimators take them."""
        self.check(x)
        if isinstance(self.steps, Geometric):
            return self._geometric(x, self.steps.p)
        products, hidden, sample, terms = self.products(), (), x, []
        for step in range(self.steps):
            last = step == self.steps - 1
            outputs, hidden = self.reconstruct(self.corrupted(sample), hidden, products, last)
            terms.append(-self.reconstruction.log_prob(outputs, x))
            sample = x if last else self._sample(outputs, x.dtype)
        return torch.stack(terms, -1)

    def _geometric(self, x: Tensor, p: float) -> Tensor:
        products, sample, terms = self.products(), x, []
        hidden: Hidden = ()
        rows, ids = torch.arange(len(x), device=x.device, dtype=torch.int64), noise.example_ids(len(x), x.device)
        for _ in range(LONGEST):
            with noise.examples(ids[rows]):
                outputs, hidden = self.reconstruct(self.corrupted(sample), hidden, products)
                term = -self.reconstruction.log_prob(outputs, x[rows])
                terms.append(term.new_zeros(len(x)).index_put((rows,), term))
                # Not for slices of x: within a vmap all samples of an example walk equally far, or shapes would differ.
                like = torch.empty((), device=x.device, dtype=torch.float32)
                u = noise.fresh("uniform", (len(rows), 1), x.device, slices_differ=False).draw(like)
                goes_on = u.squeeze(-1) <= p
                if not goes_on.any():
                    break
                sample = self._sample(outputs, x.dtype)[goes_on]
            rows, hidden = rows[goes_on], tuple(None if h is None else h[goes_on] for h in hidden)
        return torch.stack(terms, -1)

    def corrupted(self, sample: Tensor) -> Tensor:
        if self.corruption is None:
            return sample
        corrupted = self.corruption(sample)
        if isinstance(self.corruption, corruption.Custom) and not self.is_noisy() and torch.equal(corrupted, sample):
            raise ValueError(
                "the corruption changed nothing in this batch: the model would learn the identity, and the chain would never "
                "move; use one that changes its input"
            )
        return corrupted

    def is_noisy(self) -> bool:
        """Whether there is noise besides the corruption."""
        return False

    def _sample(self, outputs: Tensor, dtype: torch.dtype) -> Tensor:
        """Of the data's dtype, which is the network's: reconstructions sample in float32 or wider."""
        if self.through_samples:
            return self.reconstruction.sample(outputs).to(dtype)
        with torch.no_grad():
            return self.reconstruction.sample(outputs.detach()).to(dtype)

    def check(self, x: Tensor) -> None:
        """Raises ValueError for data of another width, or outside the reconstruction's support."""
        if x.dim() != 2 or x.shape[1] != self.units:
            raise ValueError(f"x has shape {tuple(x.shape)}: (batch, {self.units}) is needed; flatten images with x.flatten(1)")
        if not kernels.recording(x):
            self.reconstruction.check(x)

    # --- sampling -------------------------------------------------------------------------------------------------------
    def start(self, x: Tensor) -> State:
        """The state of chains that start at x (chains, units), with nothing in the hidden layers."""
        self.check(x)
        return State(x)

    def step(self, state: State, clamp: Tensor | None = None, values: Tensor | None = None) -> State:
        """One step of the chain: corrupt, reconstruct, sample x given values[clamp] (GSN paper, Sec. 5)."""
        corrupted = self.corrupted(state.x)
        if clamp is not None and not self.corrupt_clamped:
            corrupted = torch.where(clamp, state.x, corrupted)
        outputs, hidden = self.reconstruct(corrupted, state.hidden)
        x, mean = self.reconstruction.sample_with_mean(outputs, clamp, values)
        return State(x.to(state.x.dtype), mean=mean, hidden=hidden)
