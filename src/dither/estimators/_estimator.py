"""What every estimator shares: running a closure with the model's nodes taken over, and the loss that comes back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from dither import noise
from dither.estimators._locality import Locality
from dither.estimators._site import Closure, Site, checked_cost
from dither.functional._bernoulli import attach, widen
from dither.nodes import Node, _checkpoint, named_nodes, taken_over
from dither.nodes._node import is_concrete


class Estimator(ABC):
    """Base of the estimators: built on a model, called on a closure, returns the loss.

    The loss's value is the mean cost; its gradient is the estimate. A subclass says what a node answers (`respond`) and
    what it adds to the loss (`surrogate`), and declares its facts, which the conformance suite checks:

    unbiased     whether the gradient's expectation is that of the expected cost.
    evaluations  how many times the closure's cost is computed per call.
    reference    where the method comes from.

    Raises ValueError for a model without nodes, a cost without a batch dimension and the like; FloatingPointError, naming
    call, node and seed, for a cost that is not finite.
    """

    unbiased: ClassVar[bool]
    reference: ClassVar[str]
    stochastic: ClassVar[bool] = True  # False: its value is the cost of another, deterministic network
    composable: ClassVar[bool] = True  # may be one of PerNode's: it needs nothing but `respond` and `surrogate`
    local_credit: bool = False  # whether surrogates use Site.influence

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
        self.samples = samples
        self.vectorize = vectorize
        self.calls = 0
        self.locality = Locality()
        self.learning = True  # False while an oracle needs the state as it is
        self._handler = self._on_node  # one object for good, so that compiled models are not compiled again
        self._seed = torch.zeros((), dtype=torch.int64)
        self._sample: Tensor | int = 0
        self._differentiating = False
        self._calls: list[Node] = []
        self._drawn: list[tuple[Node, Tensor, Tensor]] = []

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        """What the conformance suite builds of this class, by name: every choice that changes its gradient."""
        return {cls.__name__: cls}

    @property
    def evaluations(self) -> int:
        return self.samples

    @abstractmethod
    def respond(self, node: Node, logits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """(what the node returns, its outcome if it is to be credited)."""

    def surrogate(self, site: Site, costs: Tensor) -> Tensor | None:
        """A scalar whose gradient is this site's part of the estimate. costs: (K, batch, terms)."""
        return None

    def __call__(self, closure: Closure) -> Tensor:
        self.calls += 1
        self._seed, self._differentiating = noise.draw_seed(), torch.is_grad_enabled()
        costs, sites = self._run(closure)
        if self.local_credit and costs.shape[-1] > 1:
            self.locality.mark(self, closure, sites, costs.shape[-1])
        loss = widen(costs).sum(-1).mean()
        for site in sites:
            part = self.surrogate(site, costs.detach())
            if part is not None:
                loss = attach(loss, part)
        return loss

    # --- running the closure ------------------------------------------------------------------------------------------
    def _once(self, closure: Closure, sample: Tensor, handler: Callable[[Node, Tensor], Tensor]):
        """One run of the closure with the nodes answered by `handler`: cost (batch, terms), logits and outcomes."""
        self._sample, self._calls, self._drawn = sample, [], []
        with taken_over(self.nodes.values(), _handler=handler):
            cost = checked_cost(closure())
        return cost, [d[1] for d in self._drawn], [d[2] for d in self._drawn]

    def _run(self, closure: Closure) -> tuple[Tensor, list[Site]]:
        """Costs (K, batch, terms) and the sites, for K independent runs of the closure."""

        def once(sample: Tensor):
            return self._once(closure, sample, self._handler)

        from_oracle = any(node._source is not None for node in self.nodes.values())
        if self.samples == 1:
            cost, logits, outcomes = once(torch.tensor(0))
            costs, logits, outcomes = cost.unsqueeze(0), [t.unsqueeze(0) for t in logits], [t.unsqueeze(0) for t in outcomes]
        elif self.vectorize and not from_oracle:
            try:
                # vmap cannot enter compiled code (pytorch#128711): compiled parts of the closure run eagerly here.
                with torch.compiler.set_stance("force_eager"):
                    costs, logits, outcomes = torch.func.vmap(once, randomness="same")(torch.arange(self.samples))
            except RuntimeError as error:
                error.add_note(
                    f"dither: {type(self).__name__} runs its {self.samples} samples as one vmap over the closure; where the "
                    "closure cannot be vmapped (.item(), in-place updates of buffers, ...) use vectorize=False"
                )
                raise
        else:
            runs = [once(torch.tensor(k)) for k in range(self.samples)]
            if len({len(run[1]) for run in runs}) > 1:
                raise ValueError(
                    f"the closure called {sorted({len(run[1]) for run in runs})} nodes in its {self.samples} runs: with "
                    "samples > 1 each run must call the same nodes"
                )
            costs = torch.stack([run[0] for run in runs])
            logits = [torch.stack(parts) for parts in zip(*(run[1] for run in runs), strict=True)]
            outcomes = [torch.stack(parts) for parts in zip(*(run[2] for run in runs), strict=True)]
        self._require_called(bool(self._calls))
        sites = [
            Site(name, drawn[0], a, h)
            for name, drawn, a, h in zip(self._site_names(), self._drawn, logits, outcomes, strict=True)
        ]
        self._drawn = []
        self._check(costs, sites)
        return costs, sites

    def _require_called(self, called: bool) -> None:
        if not called:
            raise ValueError(
                f"the closure called none of the nodes of the model that {type(self).__name__} was built on "
                f"({', '.join(self.nodes)}): build the estimator on the model that the closure runs, and call it outside "
                "dither.deterministic"
            )

    def _on_node(self, node: Node, logits: Tensor) -> Tensor:
        answer = _checkpoint.noted(partial(self._answer, node, self._seed, len(self._calls), self._sample))
        node._unseen = self._differentiating and not torch.is_grad_enabled()
        self._calls.append(node)
        output, outcome = answer(logits)
        if outcome is not None:
            self._drawn.append((node, logits, outcome))
        return output

    def _answer(self, node: Node, seed: Tensor, site: int, sample: Tensor | int, logits: Tensor):
        return self.respond(node, logits, node.draw(logits, seed, site, sample, self.samples))

    def _site_names(self) -> list[str]:
        names = {id(node): name for name, node in self.nodes.items()}
        seen: dict[str, int] = {}
        result = []
        for node, _, _ in self._drawn:
            name = names[id(node)]
            seen[name] = seen.get(name, -1) + 1
            result.append(f"{name}:{seen[name]}" if seen[name] else name)
        return result

    def _check(self, costs: Tensor, sites: list[Site]) -> None:
        for site in sites:
            if site.logits.shape[1] != costs.shape[1]:
                raise ValueError(
                    f"node '{site.name}' got logits of shape {tuple(site.logits.shape[1:])} but the closure returned a cost "
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
