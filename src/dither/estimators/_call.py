"""One call of a node while an estimator runs the closure: what the estimator is told, and where its noise comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dither.nodes import Node
from dither.nodes._node import is_concrete
from dither.noise import Keyed, drawn

if TYPE_CHECKING:
    from dither.estimators._estimator import Estimator


@dataclass
class Call:
    """A node that wants an answer for its logits.

    site    number of the call among all calls of nodes in this run of the closure.
    index   number among the calls of discrete nodes: what layouts and plans count.
    run     which of the call's runs of the closure this is, a 0-d integer tensor; in a vmap over runs a batched one, so
            compare it with torch.where and not with `if`.
    """

    estimator: Estimator
    node: Node
    logits: Tensor
    seed: Tensor
    site: int
    index: int
    run: Tensor

    def noise(
        self, sample: Tensor | int | None = None, *, stream: int = 0, same: Tensor | bool = True, among: int = 0
    ) -> Tensor:
        """The keyed noise of this call, of the node's noise shape: equal keys (sample, stream) have equal noise.

        sample: by default the run, so that runs are independent; a constant makes runs share their noise. stream: further
        independent noise of the same call. same: for oracles, whether an earlier draw of this key was for equal logits. among:
        that sample lies in 0 ... among - 1, so that in a vmap over many runs each is drawn once and picked by the runs.
        """
        sample = self.run if sample is None else sample
        if self.node._source is not None:
            return self.node._source(self.node, self.logits, (self.site, stream, sample), self.estimator, same)
        if among and isinstance(sample, Tensor) and not is_concrete(sample):
            return torch.stack([drawn(self._named(k, stream), self.logits) for k in range(among)])[sample]
        return drawn(self._named(sample, stream), self.logits)

    def keyed(self) -> Tensor | Keyed:
        """The noise of this call and run, not drawn yet where the node can draw it on the fly."""
        return self.noise() if self.node._source is not None else self._named(self.run, 0)

    def _named(self, sample: Tensor | int, stream: int) -> Tensor | Keyed:
        # Slices of a vmap have no draws of their own: the key alone tells runs apart, and noise of a constant key is drawn
        # once.
        return self.node.draw(self.logits, self.seed, self.site | stream << 32, sample, own_slices=False)

    def is_run(self, number: int | Tensor) -> Tensor:
        """Whether this is run `number`: 0-d bool."""
        return torch.as_tensor(self.run == number)
