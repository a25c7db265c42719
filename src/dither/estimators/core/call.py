"""One call of a node while an estimator runs the closure: what the estimator is told, and where its noise comes from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dither.estimators.core.sample_gradients import Graph
from dither.nodes import Node, Sampler, is_concrete
from dither.noise import Keyed

Layout = tuple[tuple[Node | None, tuple[int, ...]], ...]  # (node, shape of its logits without the batch) of every discrete call

FORESEEN: Layout = ((None, ()),)  # before the first call: one discrete node


@dataclass
class Call:
    """A call of a node, to be given a sample and an output.

    site    number of the call among all calls of nodes in this run of the closure.
    index   number among the calls of discrete nodes: what layouts and plans count.
    run     which of the call's runs of the closure this is, a 0-d integer tensor; in a vmap over runs a batched one, so
            compare it with torch.where and not with `if`.
    layout  that of the estimator's present plan: the discrete calls that it foresees.
    """

    node: Node
    logits: Tensor
    seed: Tensor
    site: int
    index: int
    run: Tensor
    layout: Layout
    graph: Graph

    def sample(self) -> Tensor:
        """The node's hard sample by this call's own noise, as without an estimator."""
        if self.node._source is not None:
            return self.node.sample(self.logits, self.noise())
        return self.node.sample_keyed(self.logits, self._keyed(self.run, 0))

    def propagate(self, sampler: Sampler | None = None) -> Tensor:
        """The node's output by this call's own noise, with a gradient that flows through it."""
        if self.node._source is not None:
            return self.node.propagate(self.logits, self.noise(), sampler)
        return self.node.propagate_keyed(self.logits, self._keyed(self.run, 0), sampler)

    def output(self, sample: Tensor) -> Tensor:
        """The node's output for a sample."""
        return self.node.output(self.logits, sample)

    def differentiable(self, hard: Tensor, path: Tensor | None) -> Tensor:
        """`hard` as the node's output, for estimators that declare `needs_sample_gradients`: they are taken there, and those of
        earlier nodes follow `path` to its logits. The user's backward does neither."""
        return self.graph.leaf(hard.detach(), path)

    def noise(self, sample: Tensor | int | None = None, *, stream: int = 0, groups: int = 0) -> Tensor:
        """The noise of this call, of the node's noise shape: equal keys (sample, stream) have equal noise.

        sample: by default the run, so that runs are independent; a constant makes runs share their noise. stream: further
        independent noise of the same call. groups: that sample lies in 0 ... groups - 1, so that in a vmap over many runs each
        is drawn once and gathered by the runs.
        """
        sample = self.run if sample is None else sample
        if self.node._source is not None:
            return self.node._source(self.node, self.logits, self, stream, sample)
        if groups and isinstance(sample, Tensor) and not is_concrete(sample):
            return torch.stack([self._keyed(k, stream).draw(self.logits) for k in range(groups)])[sample]
        return self._keyed(sample, stream).draw(self.logits)

    def _keyed(self, sample: Tensor | int, stream: int) -> Keyed:
        # Slices of a vmap have no draws of their own: the key alone tells runs apart, and noise of a constant key is drawn
        # once.
        return self.node.keyed(self.logits, self.seed, self.site | stream << 32, sample, slices_differ=False)

    def is_run(self, number: int | Tensor) -> Tensor:
        """Whether this is run `number`: 0-d bool."""
        return torch.eq(self.run, number)
