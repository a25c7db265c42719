"""The examples of each step, as a function of its number: a resumed run goes on with the same ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dither import noise

ORDERS = 0  # the stream of seeds of the permutations: seeded twice over, they share it with no step


class Batches:
    """step -> the indices of its examples (batch,). Every epoch is a permutation of all, cut into batches.

    drop_last   leave an incomplete last batch out
    Raises      ValueError for more examples to a batch than there are, with drop_last.
    """

    def __init__(
        self, examples: int, batch_size: int, seed: int, *, drop_last: bool = False, device: torch.device | None = None
    ) -> None:
        self.examples, self.batch_size, self.seed, self.device = examples, batch_size, seed, device
        self.per_epoch = examples // batch_size if drop_last else math.ceil(examples / batch_size)
        if not self.per_epoch:
            raise ValueError(f"there are {examples} examples for batches of {batch_size}: choose a smaller batch_size")
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64, device="cpu")

    def __call__(self, step: int) -> Tensor:
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(noise.step_seed(noise.step_seed(self.seed, ORDERS), epoch))
            self._epoch, self._order = (
                epoch,
                torch.randperm(self.examples, generator=generator, dtype=torch.int64, device="cpu").to(self.device),
            )
        return self._order[index * self.batch_size : (index + 1) * self.batch_size]

    @property
    def identity(self) -> dict[str, int]:
        """The numbers on which every batch depends: a run is resumed with the same ones only."""
        return {"batch_size": self.batch_size, "examples": self.examples, "seed": self.seed}
