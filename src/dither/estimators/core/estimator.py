"""What every estimator shares: running a closure with the model's nodes taken over, and the loss that comes back."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from dither import noise
from dither.estimators.core.auxiliary import WithAux
from dither.estimators.core.building import require_closure
from dither.estimators.core.call import FORESEEN, Layout
from dither.estimators.core.credit import declare
from dither.estimators.core.credited import Credited
from dither.estimators.core.execution import Execution
from dither.estimators.core.locality import Locality
from dither.estimators.core.mappable import Mappable, Vectorize, checked_vectorize
from dither.estimators.core.mixing import Mixing
from dither.estimators.core.nesting import returned
from dither.estimators.core.pooling import Examples, pooled, pools
from dither.estimators.core.recording import Recording, require_one_run
from dither.estimators.core.run import Handler
from dither.estimators.core.shapes import batch_mean
from dither.estimators.core.site import Closure, Site, check_costs, refuse_repeats
from dither.estimators.core.transforms import depth, refuse_learning
from dither.functional import attach
from dither.nodes import CAPABILITIES, refuse_within_rows


class Estimator(Credited, ABC):
    """Base of the estimators: built on a model, or a list of several, called on a closure, returns the loss.

    The loss's value is the mean cost; its gradient is the estimate. A subclass says how a node samples in a run of the closure
    (`sample`) and what each of its calls adds to the loss (`surrogate`), and declares its facts, which the conformance suite
    checks:

    unbiased       whether the gradient's expectation is that of the expected cost.
    evaluations    how many times the closure's cost is computed per call. `samples` counts, for every estimator alike, the runs
                   of the closure in which the net's own nodes sample; others (relaxed, mean-field, for each layer) come on top.
    reference      where the method comes from.
    requires       the capabilities that it needs of a discrete node (`nodes.CAPABILITIES`).
    needs_sample_gradients  whether it takes d cost / d output of each node (`Site.sample_gradient`): then the cost must be
                   differentiable in the nodes' outputs, unless `any_cost`.

    The first dimension of every node's logits is that of the costs: the unit in row i is credited with cost i alone. An empty
    batch, costs of shape (0,), is legal: the loss is 0 and so is its gradient.

    examples: "checked" (the default): at its first call with several examples a closure is run a few times more, to see
    whether costs depend on other examples' samples (time-first logits where time equals the batch, batch normalisation in
    training mode, losses that compare examples). If so the estimator warns, and credits with the cost of the whole batch from
    then on, which is unbiased and noisy, or raises where it cannot. "mixed" declares it; "separate" is not looked at, and
    leaves out what a sample does to other examples. Running statistics of the model are put back after the look.

    A closure may look at samples in Python and stop early, or go on by other nodes: then several runs are made in a loop.

    vectorize: "auto" (the default, which True says too): several runs are one torch.func.vmap over the closure; where vmap
    cannot take it they are made one after the other, by the same noise, and one warning names the operation. False: a loop.
    repeated: True: the closure runs once, on a batch of which row k * batch + i is example i under sample k
    (`dither.repeat_rows`); for estimators whose samples are runs.

    Raises TypeError for a node that it cannot credit; ValueError for a model without nodes, a cost without a batch
    dimension and the like; FloatingPointError, naming call, node and seed, for a cost that is not finite.
    """

    def __init__(
        self, model: nn.Module | Sequence[nn.Module], *, samples: int = 1, vectorize: Vectorize = "auto", repeated: bool = False
    ) -> None:
        super().__init__(model)
        if isinstance(self.model, Estimator):
            name = type(self).__name__
            raise TypeError(
                f"model is a {type(self.model).__name__}, an estimator itself: build {name} on its net, {name}(estimator.model)"
            )
        if isinstance(samples, bool) or not isinstance(samples, int) or not 1 <= samples <= noise.MAX_SAMPLES:
            raise ValueError(
                f"samples is {samples!r}: it must be an integer from 1 to {noise.MAX_SAMPLES}, how many runs sample"
            )
        if samples % self.runs_together:
            more = samples + -samples % self.runs_together
            raise ValueError(
                f"samples is {samples}: {type(self).__name__} runs the closure in pairs, and samples counts runs, so "
                f"it must be even: give samples={more} for {more // 2} pair{'s' * (more > 2)}"
            )
        if not self.nodes:
            raise ValueError(
                f"{type(self.model).__name__} has no stochastic node: put a dither.Bernoulli(), dither.Categorical() or "
                "another node where the model takes its hard decisions (a closure is estimated only through its model's nodes)"
            )
        self._require_capable()
        self.samples = samples
        self.vectorize: Vectorize = checked_vectorize(vectorize)
        self.mappable = Mappable()
        self.repeated = repeated
        self.calls = 0
        self.locality = Locality()
        self.examples: Examples = "checked"
        self.mixing = Mixing()
        # Whether Python looked at samples in the last call, one run after the other (`vectorize=False`). Then another kind of
        # run may take other branches than the net itself, and what it leaves may be no control variate.
        self.reading = False
        self.learning = True  # False while an oracle needs the state as it is
        self.handler = Handler()
        self.layout: Layout = FORESEEN  # that of the last call
        self.recorded: Recording | None = None  # a run whose loss has not been asked for

    def _require_capable(self) -> None:
        for name, node in self.nodes.items():
            if node.discrete and (lacking := [c for c in self.requires if not node.has(c)]):
                raise TypeError(
                    f"{type(self).__name__} cannot credit node '{name}', a {type(node).__name__}: it needs "
                    f"{' and '.join(f'{c} ({CAPABILITIES[c]})' for c in lacking)}, which the node does not have; use "
                    "ScoreFunction, which takes every discrete node, or dither.PerNode with an estimator for each"
                )

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        """What the conformance suite builds of this class, by name: every choice that changes its gradient."""
        return {} if cls is Estimator else {cls.__name__: cls}

    if TYPE_CHECKING:  # torch.nn.Module's, which calls `forward`

        @overload
        def __call__(
            self, closure: Callable[[], tuple[Tensor, Any]], *, has_aux: Literal[True], detach: bool = True
        ) -> tuple[Tensor, Any]: ...
        @overload
        def __call__(self, closure: Closure) -> Tensor: ...
        def __call__(self, closure: Any, *, has_aux: bool | None = None, detach: bool = True) -> Any: ...

    def forward(self, closure: Any, *, has_aux: bool | None = None, detach: bool = True) -> Any:
        """The loss; where the closure returns (cost, aux), (loss, aux).

        has_aux: True: it must return such a pair, False: it may not, None (the default): it may. aux is any tree (tuples,
        lists, dicts) of tensors and other objects. Of several samples each of its tensors has a leading dimension, (samples,
        ...): of those runs whose mean cost is the loss's value. What is no tensor, or has another shape in another sample, is
        a list of one for each sample, unless it is the same in all; where samples return other structures, aux is a list.
        detach: False: gradients flow through the tensors of aux, as those of a balance loss must; along the graph of the
        closure alone, which ends at the samples of nodes that are credited with costs.
        """
        require_closure(closure, type(self).__name__)
        refuse_within_rows(type(self).__name__)
        if not detach and not self.keeps_graph:
            raise ValueError(
                f"detach is False, but {type(self).__name__} runs the closure without a graph: take what gradients are to flow "
                "through by a run of the model outside of the closure"
            )
        closure = WithAux(closure, has_aux, detach)
        return closure.returned(self.estimate(closure))

    def estimate(self, closure: Closure) -> Tensor:
        """The loss, for a closure that returns its cost alone."""
        self.calls += 1
        pool = pools(self, closure)
        # Compiled models are compiled anew for another layout: those that do not look at it are shown none.
        execution = Execution(self, closure, self.layout if self.runs_depend_on_layout else FORESEEN, self.run_type)
        traces = self.traces
        if self.locality.several is None and self.mixing.terms is not None and not self.split_sums:
            self.locality.several = self.mixing.terms > 1
        execution.watching = traces and self.locality.watches_next
        again = traces and self.locality.repeats(execution)
        costs, sites = execution.runs()
        layout: Layout = tuple((site.node, site.shape[2:]) for site in sites)
        if layout != self.layout:
            self.layout = layout
            # The first call, or a change of shapes: made once more, by the right plan, unless run after run kept to it.
            if self.runs_depend_on_layout and execution.layout != layout:
                execution.layout = layout
                costs, sites = execution.runs()
        if self.local_credit:
            self.locality.several = costs.shape[-1] > 1
            if again and self.locality.several:
                del costs, sites  # and the graph with them
                with again:
                    costs, sites = execution.runs()
        self.mixing.batch = costs.shape[1]
        return self._loss(execution, costs, sites, pool)

    # --- a run that the program makes itself --------------------------------------------------------------------------
    def recording(self) -> AbstractContextManager[None]:
        """For a program that has no closure to give: within `with estimator.recording():` it runs the model itself, once, and
        `estimator.loss(cost)` gives the loss.

        For estimators of one run. Nothing is run again: of a cost with terms each unit is credited as declared, or with all;
        whether examples depend on each other is not looked at (`examples="mixed"` says that they do).

        Raises TypeError for estimators of several runs; RuntimeError for a recording whose loss was not asked for."""
        require_one_run(self)
        if self.recorded is not None:
            raise RuntimeError(
                "recording() again before loss(): ask for the loss of the first, or drop it by estimator.recorded = None"
            )
        recording = Recording(self)
        return recording.opened(partial(setattr, self, "recorded", recording))

    def loss(self, cost: Tensor) -> Tensor:
        """The loss of the run that was recorded. cost: (batch,) or (batch, terms), as a closure's."""
        recording, self.recorded = self.recorded, None
        if recording is None:
            where = "within the block of" if self.handler.run is not None else "before"
            raise RuntimeError(f"loss() {where} a run: make it within `with estimator.recording():`, and ask behind the block")
        self.calls += 1
        execution = Execution(self, lambda: cost, FORESEEN, seed=recording.run.seed)
        cost, *parts = recording.left(cost)
        costs, sites = execution.of_one(recording.run, cost, parts)
        self.layout = tuple((site.node, site.shape[2:]) for site in sites)
        if self.local_credit:
            self.locality.several = costs.shape[-1] > 1
        return self._loss(execution, costs, sites, self.credits_examples and self.examples == "mixed")

    def _loss(self, execution: Execution, costs: Tensor, sites: list[Site], pool: bool) -> Tensor:
        if self.learning and torch.is_grad_enabled() and depth():
            refuse_learning(self, self.nodes.values(), type(self).__name__)
        check_costs(costs, sites, f"call {self.calls} of {type(self).__name__}", execution.seed)
        if self.traces and self.locality.several:
            self.locality.mark(execution, sites, costs.shape[-1])
        if self.local_credit:
            declare(sites, [self.credits_of(site.node) for site in sites], costs.shape[-1])
        if pool and execution.differentiating:
            loss = attach(batch_mean(self.value(costs)), self.assemble(pooled(costs), sites))
        else:
            loss = self.assemble(costs, sites) if execution.differentiating else batch_mean(self.value(costs))
        return returned(type(self).__name__, loss)

    def assemble(self, costs: Tensor, sites: list[Site]) -> Tensor:
        """The loss: the objective's value with its own gradient, and every site's surrogate attached."""
        loss = batch_mean(self.value(costs))
        for site in sites:
            part = self.part(site, costs.detach())
            if part is not None:
                loss = attach(loss, part)
        return loss

    def part(self, site: Site, costs: Tensor) -> Tensor | None:
        """A site's surrogate; of a call of some rows of the batch with the costs of their examples, a mean over which counts
        by how many they are."""
        if site.rows is None:
            return self.surrogate(site, costs)
        if not self.credits_repeats:
            refuse_repeats(type(self).__name__, site)
        part = self.surrogate(site, costs[:, site.rows])
        return None if part is None else part * (len(site.rows) / max(costs.shape[1], 1))

    # --- state --------------------------------------------------------------------------------------------------------
    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within it calls leave the estimator's state (baselines) as it is."""
        before, self.learning = self.learning, False
        try:
            yield
        finally:
            self.learning = before

    def __getstate__(self) -> dict[str, Any]:
        if self.recorded is not None:
            raise RuntimeError(
                f"{type(self).__name__} is copied or pickled with a recorded run, whose graph cannot be: do it after loss(), "
                "or drop the run by estimator.recorded = None"
            )
        return dict(vars(self))
