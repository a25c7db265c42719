"""What every estimator shares: running a closure with the model's nodes taken over, and the loss that comes back."""

from __future__ import annotations

import sys
from abc import ABC
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dither import noise
from dither.estimators._call import Call
from dither.estimators._locality import Locality
from dither.estimators._site import Closure, Site, checked_cost
from dither.estimators._slopes import Valve, passage, slopes
from dither.estimators._sums import with_terms
from dither.functional._bernoulli import attach, widen
from dither.nodes import Node, _checkpoint, named_nodes, taken_over
from dither.nodes._node import is_concrete

Layout = tuple[tuple[int, ...], ...]  # the shapes of the logits of every discrete call, without the batch


class Estimator(ABC):
    """Base of the estimators: built on a model, called on a closure, returns the loss.

    The loss's value is the mean cost; its gradient is the estimate. A subclass says what a node answers (`respond`, or
    `answer` where it needs to know which run and which call it is) and what it adds to the loss (`surrogate`), and declares
    its facts, which the conformance suite checks:

    unbiased       whether the gradient's expectation is that of the expected cost.
    evaluations    how many times the closure's cost is computed per call.
    reference      where the method comes from.
    supports       the discrete nodes that it can credit.
    differentiates whether it takes slopes, d cost / d output of each node (`Site.slope`): then the cost must be
                   differentiable in the nodes' outputs, unless `any_cost`.

    Raises TypeError for a node that it does not support; ValueError for a model without nodes, a cost without a batch
    dimension and the like; FloatingPointError, naming call, node and seed, for a cost that is not finite.
    """

    unbiased: ClassVar[bool]
    multi_sample: ClassVar[bool] = False  # its objective is not the mean of the runs' costs, but `value` of them together
    reference: ClassVar[str]
    supports: ClassVar[tuple[type[Node], ...]] = (Node,)
    differentiates: ClassVar[bool] = False
    any_cost: ClassVar[bool] = True  # False: (un)biasedness holds for costs that are smooth in the nodes' outputs only
    planned: ClassVar[bool] = False  # what it does depends on the layout, so the closure may have to run anew to learn it
    stochastic: ClassVar[bool] = True  # False: its value is the cost of another network
    composable: ClassVar[bool] = True  # may be one of PerNode's: it needs nothing but `respond` and `surrogate`
    enumerates: ClassVar[bool] = False  # sums over outcomes instead of sampling them
    accuracy: ClassVar[float] = 1e-10  # to which an oracle finds its expectation: less where that takes quadrature
    local_credit: bool = False  # whether surrogates use Site.influence
    split_sums: bool = False  # whether a cost that the closure has summed counts as its terms

    def __init__(self, model: nn.Module, *, samples: int = 1, vectorize: bool = True) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model is {type(model).__name__}: an estimator is built on a torch.nn.Module, {type(self).__name__}(net)"
            )
        if isinstance(samples, bool) or not isinstance(samples, int) or not 1 <= samples <= noise.MAX_SAMPLES:
            raise ValueError(f"samples is {samples!r}: it must be an integer from 1 to {noise.MAX_SAMPLES}")
        self.model = model
        self.nodes = named_nodes(model)
        if not self.nodes:
            raise ValueError(
                f"{type(model).__name__} has no stochastic node: put a dither.Bernoulli(), dither.Categorical() or another "
                "node where the model takes its hard decisions (a closure is estimated only through its model's nodes)"
            )
        self._require_supported()
        self.samples = samples
        self.vectorize = vectorize
        self.calls = 0
        self.locality = Locality()
        self.learning = True  # False while an oracle needs the state as it is
        self._handler = self._on_node  # one object for good, so that compiled models are not compiled again
        self._seed = torch.zeros((), dtype=torch.int64)
        self._sample = torch.zeros((), dtype=torch.int64)
        self._differentiating = False
        self._calls: list[Node] = []
        self._drawn: list[tuple[Node, Tensor, Tensor, Tensor | None]] = []
        self._layout: Layout = ((),)
        self._valve = Valve()
        self._root = torch.zeros((), requires_grad=True)

    def _require_supported(self) -> None:
        for name, node in self.nodes.items():
            if node.discrete and not isinstance(node, self.supports):
                able = " and ".join(kind.__name__ for kind in self.supports)
                raise TypeError(
                    f"{type(self).__name__} cannot credit node '{name}', a {type(node).__name__}: it is for {able} only; use "
                    "ScoreFunction, which takes every discrete node, or dither.PerNode with an estimator for each"
                )

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        """What the conformance suite builds of this class, by name: every choice that changes its gradient."""
        return {} if cls is Estimator else {cls.__name__: cls}

    @classmethod
    def fewest_samples(cls, words: Collection[str] = ()) -> int:
        """How many samples it needs at least, with these words among its arguments (such as a baseline's)."""
        return 1

    def runs(self, layout: Layout) -> int:
        """How many runs of the closure a call makes, for discrete calls of these shapes."""
        return self.samples

    @property
    def evaluations(self) -> int:
        """Known after the first call, where it depends on the closure's units."""
        return self.runs(self._layout)

    def answer(self, call: Call) -> tuple[Tensor, Tensor | None]:
        """(what the node returns, its outcome if it is to be credited)."""
        return self.respond(call.node, call.logits, call.keyed())

    def respond(self, node: Node, logits: Tensor, noise: Any) -> tuple[Tensor, Tensor | None]:
        """`answer` for estimators that treat all runs and calls alike. The noise is for the node's methods: it may be Keyed."""
        raise NotImplementedError(f"{type(self).__name__} defines neither respond nor answer")

    def through(self, hard: Tensor, path: Tensor | None) -> Tensor:
        """`hard` as a node's output, for estimators that differentiate: slopes are taken there, and slopes of earlier nodes
        follow `path` to its logits. The user's backward does neither."""
        return passage(hard.detach(), path, self._root.to(hard), self._anchor, self._valve)

    def surrogate(self, site: Site, costs: Tensor) -> Tensor | None:
        """A scalar whose gradient is this site's part of the estimate. costs: (K, batch, terms), constants."""
        return None

    def value(self, costs: Tensor) -> Tensor:
        """The objective of each example from the costs (K, batch, terms) of all runs: their mean, terms summed."""
        return widen(costs).sum(-1).mean(0)

    def cells(self, node: Node, logits: Tensor, stream: int) -> tuple[Tensor, Tensor] | None:
        """For oracles: (noise, log weight) of a partition or quadrature of the noise of a call, where it has its own."""
        return None

    def breaks(self, node: Node, logits: Tensor, stream: int) -> Tensor | None:
        """For oracles: thresholds in (0, 1), (n, batch, *units), between which the estimator does not tell uniforms apart."""
        return None

    def __call__(self, closure: Closure) -> Tensor:
        self.calls += 1
        self._seed, self._differentiating = noise.draw_seed(), torch.is_grad_enabled()
        costs, sites = self._run(closure)
        if self.local_credit and costs.shape[-1] > 1:
            self.locality.mark(self, closure, sites, costs.shape[-1])
        return self.assemble(costs, sites) if self._differentiating else self.value(costs).mean()

    def assemble(self, costs: Tensor, sites: list[Site]) -> Tensor:
        """The loss: the objective's value with its own gradient, and every site's surrogate attached."""
        loss = self.value(costs).mean()
        for site in sites:
            part = self.surrogate(site, costs.detach())
            if part is not None:
                loss = attach(loss, part)
        return loss

    # --- running the closure ------------------------------------------------------------------------------------------
    def _once(self, closure: Closure, run: Tensor, handler: Callable[[Node, Tensor], Tensor]):
        """One run of the closure with the nodes answered by `handler`: cost (batch, terms), logits, outcomes, slopes."""
        self._sample, self._calls, self._drawn, self._valve = run, [], [], Valve()
        self._anchor = self._anchored(run)
        with taken_over(self.nodes.values(), _handler=handler):
            cost = checked_cost(with_terms(closure) if self.split_sums else closure())
        outputs = [output for *_, output in self._drawn if output is not None]
        found = slopes(cost, outputs) if self.differentiates and self._differentiating else []
        self._valve.open = False
        return cost, [d[1] for d in self._drawn], [d[2] for d in self._drawn], found

    def _anchored(self, run: Tensor) -> Tensor:
        source = next((node._source for node in self.nodes.values() if node._source is not None), None)
        row = getattr(source, "row", None)
        return run if row is None else run + 0 * row.sum()

    def _run(self, closure: Closure) -> tuple[Tensor, list[Site]]:
        """Costs (runs, batch, terms) and the sites, for all runs of the closure. Where the plan depends on a layout that is
        not the one foreseen (the first call, a change of shapes), the runs are made once more, by the right plan."""
        costs, sites = self._run_as_planned(closure)
        layout = tuple(site.shape[2:] for site in sites)
        if layout != self._layout:
            self._layout = layout
            if self.planned:
                costs, sites = self._run_as_planned(closure)
        self._check(costs, sites)
        return costs, sites

    def _run_as_planned(self, closure: Closure) -> tuple[Tensor, list[Site]]:
        def once(run: Tensor):
            return self._once(closure, run, self._handler)

        runs = self.runs(self._layout)
        from_oracle = any(node._source is not None for node in self.nodes.values())
        if runs == 1:
            found = [once(torch.tensor(0))]
            costs, parts = found[0][0].unsqueeze(0), [[t.unsqueeze(0) for t in part] for part in found[0][1:]]
        elif self.vectorize and not from_oracle:
            costs, *parts = self._vmapped(once, runs)
        else:
            found = [once(torch.tensor(k)) for k in range(runs)]
            if len({len(run[1]) for run in found}) > 1:
                raise ValueError(
                    f"the closure called {sorted({len(run[1]) for run in found})} nodes in its {runs} runs: with "
                    "several runs per call each must call the same nodes"
                )
            costs = torch.stack([run[0] for run in found])
            parts = [[torch.stack(same) for same in zip(*(run[p] for run in found), strict=True)] for p in (1, 2, 3)]
        self._require_called(bool(self._calls))
        logits, outcomes, found_slopes = parts
        sites = [
            Site(name, drawn[0], a, h, slope, index)
            for index, (name, drawn, a, h, slope) in enumerate(
                zip(self._site_names(), self._drawn, logits, outcomes, found_slopes or [None] * len(logits), strict=True)
            )
        ]
        self._drawn = []
        return costs, sites

    def _vmapped(self, once: Callable[[Tensor], Any], runs: int):
        try:
            # vmap cannot enter compiled code (pytorch#128711): compiled parts, if there can be any, run eagerly here.
            compiler = "torch._dynamo" in sys.modules
            with torch.compiler.set_stance("force_eager") if compiler else nullcontext():
                return torch.func.vmap(once, randomness="same")(torch.arange(runs))
        except RuntimeError as error:
            error.add_note(
                f"dither: {type(self).__name__} makes its {runs} runs as one vmap over the closure; where the "
                "closure cannot be vmapped (.item(), in-place updates of buffers, ...) use vectorize=False"
            )
            raise

    def _require_called(self, called: bool) -> None:
        if not called:
            raise ValueError(
                f"the closure called none of the nodes of the model that {type(self).__name__} was built on "
                f"({', '.join(self.nodes)}): build the estimator on the model that the closure runs, and call it outside "
                "dither.deterministic"
            )

    def _on_node(self, node: Node, logits: Tensor) -> Tensor:
        places = (self._seed, len(self._calls), len(self._drawn), self._sample)
        answer = _checkpoint.noted(partial(self._answer, node, places))
        node._unseen = self._differentiating and not torch.is_grad_enabled()
        self._calls.append(node)
        output, outcome = answer(logits)
        if outcome is not None:
            self._drawn.append((node, logits, outcome, output if self.differentiates else None))
        return output

    def _answer(self, node: Node, places: tuple[Tensor, int, int, Tensor], logits: Tensor):
        seed, site, index, run = places
        return self.answer(Call(self, node, logits, seed, site, index, run))

    def _site_names(self) -> list[str]:
        names = {id(node): name for name, node in self.nodes.items()}
        seen: dict[str, int] = {}
        result = []
        for node, *_ in self._drawn:
            name = names[id(node)]
            seen[name] = seen.get(name, -1) + 1
            result.append(f"{name}:{seen[name]}" if seen[name] else name)
        return result

    def _check(self, costs: Tensor, sites: list[Site]) -> None:
        for site in sites:
            if site.shape[1] != costs.shape[1]:
                raise ValueError(
                    f"node '{site.name}' got logits of shape {site.shape[1:]} but the closure returned a cost "
                    f"for {costs.shape[1]} examples: the first dimension of logits must be the batch, example by example; "
                    "reshape (batch * time, units) to (batch, time, units), expand shared logits to (batch, units)"
                )
        if is_concrete(costs) and not bool(torch.isfinite(costs.detach()).all()):
            broken = [s.name for s in sites if not bool(torch.isfinite(widen(s.logits.detach())).all())]
            where = f"first non-finite logits at node '{broken[0]}'" if broken else "all logits are finite"
            rows = (~torch.isfinite(costs.detach())).any(-1).any(0).nonzero().flatten().tolist()
            raise FloatingPointError(
                f"the cost is not finite for {len(rows)} of {costs.shape[1]} examples (first: example {rows[0]}) in call "
                f"{self.calls} of {type(self).__name__}; {where}; noise seed {int(self._seed)}. Lower the learning rate or "
                "clip gradients; the update was not made"
            )

    # --- state --------------------------------------------------------------------------------------------------------
    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within it calls leave the estimator's state (baselines) as it is."""
        before, self.learning = self.learning, False
        try:
            yield
        finally:
            self.learning = before

    def state_dict(self) -> dict[str, Tensor]:
        """The estimator's state as a flat dict of tensors; empty if it has none."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} has no state but was given {', '.join(sorted(state))}")

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the estimator's own (a learned baseline): give them to the optimizer."""
        return iter(())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(samples={self.samples}, nodes=[{', '.join(self.nodes)}])"
