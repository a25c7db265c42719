"""Runs that save nothing for a backward pass, which takes more memory than all else."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


class Saved:
    """missed: what was not saved has been asked for, as the closure computes gradients itself: then the run has to be made
    once more."""

    def __init__(self) -> None:
        self.missed = False

    def dropped(self) -> AbstractContextManager[None]:
        return torch.autograd.graph.saved_tensors_hooks(_drop, self._miss)

    def _miss(self, nothing: None) -> Tensor:
        self.missed = True
        raise RuntimeError("this run saves nothing for gradients")


def _drop(tensor: Tensor) -> None:
    return None
