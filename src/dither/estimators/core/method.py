"""What a method says of itself: the facts that it declares, how it samples in its runs, and what it makes of their costs."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from torch import Tensor

from dither.estimators.core.call import Call, Layout
from dither.estimators.core.parts import OnModel
from dither.estimators.core.run import Run
from dither.estimators.core.shapes import divided
from dither.estimators.core.site import Site
from dither.exact import Oracle
from dither.functional import widen
from dither.nodes import Node


class Method(OnModel):
    """What a subclass of `Estimator` may say otherwise than here; its docstring explains the facts. It makes the calls."""

    samples: int
    layout: Layout

    unbiased: ClassVar[bool]
    multi_sample: ClassVar[bool] = False  # its objective is not the mean of the runs' costs, but `value` of them together
    reference: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    needs_sample_gradients: ClassVar[bool] = False
    any_cost: ClassVar[bool] = True  # False: (un)biasedness holds for costs that are smooth in the nodes' outputs only
    runs_depend_on_layout: ClassVar[bool] = False  # then the closure may have to run anew once its layout is known
    runs_differ_by_kind: ClassVar[bool] = False  # some take relaxed, turned or other samples than the nodes': see `reading`
    stochastic: ClassVar[bool] = True  # False: its value is the cost of another network
    moves_in_windows: ClassVar[bool] = False  # True: what it learned of a micro-batch is used in the next, before the step
    runs_together: ClassVar[int] = 1  # how many runs make one estimate (a pair: 2); `samples` is a multiple of it
    composable: ClassVar[bool] = True  # may be one of PerNode's: it needs nothing but `sample` and `surrogate`
    oracle: ClassVar[Oracle] = Oracle()  # how dither.exact looks at its noise
    records: ClassVar[bool] = True  # whether one run of the model and its cost are all that it needs, where it makes one
    keeps_graph: ClassVar[bool] = True  # whether the graph of the closure is there after a call
    run_type: type[Run] = Run
    credits_examples: bool = True  # whether a sample is credited with the cost of its own example
    credits_batches: bool = True  # whether it may as well be with the cost of all, where examples depend on each other
    credits_repeats: bool = True  # whether an example may have several rows in one call of a node
    local_credit: bool = False  # whether surrogates use Site.influence
    split_sums: bool = False  # whether a cost that the closure has summed counts as its terms

    @classmethod
    def fewest_samples(cls, words: Collection[str] = ()) -> int:
        """How many samples it needs at least, with these words among its arguments (such as a baseline's)."""
        return cls.runs_together

    def runs(self, layout: Layout) -> int:
        """How many runs of the closure a call makes, for discrete calls of these shapes."""
        return self.samples

    @property
    def groups(self) -> int:
        """How many groups the runs are in, where they depend on the layout: each has a first run, which is the net's own, and
        runs that differ from it by the samples of one call and what follows."""
        return 1

    def starts(self, layout: Layout) -> list[int]:
        """The first run, within a group, of those that differ from each call of the layout on, and how many runs it has."""
        return [self.runs(layout[:calls]) // self.groups for calls in range(len(layout) + 1)]

    @property
    def evaluations(self) -> int:
        """Known after the first call, where it depends on the closure's units."""
        return self.runs(self.layout)

    def credits(self, node: Node) -> bool:
        """Whether the node's samples are credited with costs, and not by back-propagation."""
        return node.discrete

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        """(the node's output in this run, its sample if it is to be credited)."""
        raise NotImplementedError(f"{type(self).__name__} does not define sample(call)")

    def surrogate(self, site: Site, costs: Tensor) -> Tensor | None:
        """A scalar whose gradient is this site's part of the estimate. costs: (K, batch, terms), constants."""
        return None

    def own_runs(self, values: Tensor) -> Tensor:
        """Of values (K, ...) of all runs those of the runs that are the net's own, and not relaxed, turned or otherwise changed
        ones: whose mean cost is the loss's value, and whose auxiliary outputs a call returns."""
        return values

    def value(self, costs: Tensor) -> Tensor:
        """The objective of each example from the costs (K, batch, terms) of all runs: the mean of its own, terms summed."""
        costs = widen(self.own_runs(costs))  # not the closure's own memory, of which `batch_mean` may return a view
        return costs.sum(-1).mean(0) if costs.shape[-1] > 1 else divided(costs.sum((0, -1)), costs.shape[0])
