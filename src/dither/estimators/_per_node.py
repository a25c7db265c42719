"""One estimator for some nodes of a model, another for others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import partial

from torch import Tensor, nn

from dither.estimators.core.building import Build, built
from dither.estimators.core.call import Call
from dither.estimators.core.credit import Credits
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.parts import Named, covering
from dither.estimators.core.run import Run
from dither.estimators.core.site import Site
from dither.estimators.propagating._straight_through import StraightThrough
from dither.estimators.score._score_function import ScoreFunction
from dither.exact import Oracle
from dither.nodes import Node

COMPOSABLE = "StraightThrough, ReinMax, GumbelSoftmax, GumbelRao, MVE, Deterministic, ScoreFunction, NVIL"


class PerNode(Estimator):
    """A different estimator for different nodes of one model.

    >>> from functools import partial
    >>> import torch, dither
    >>> net = torch.nn.ModuleDict({"gate": dither.Bernoulli(), "code": dither.Categorical()})
    >>> score = partial(dither.ScoreFunction, baseline="optimal")
    >>> dither.PerNode(net, {"gate": score, "code": dither.StraightThrough}).estimators["code"]
    StraightThrough(variant='sigmoid', samples=1, vectorize='auto', repeated=False, nodes=['code'])
    >>> [dither.PerNode(net, {"gate": score, "code": code}).unbiased for code in (dither.StraightThrough, dither.NVIL)]
    [False, True]

    estimators: module name, or shell-style pattern ("encoder.*"), -> anything that builds an estimator on a model, or one that
    was built on it and covers just these nodes; the first that matches a node wins. Nodes that none matches back-propagate by
    their own sampler. What is built covers its own nodes alone, and is in `estimators` by its pattern. All must use the same
    number of samples: they share the runs of the closure. Unbiased if every estimator is, and no discrete node is left over.

    Raises TypeError for an estimator that needs more than the shared runs (runs of its own, sample gradients of every node,
    the closure itself): it would not be that estimator any more. ValueError for a pattern without a node of its own.
    """

    reference = "composition"

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        estimators: Mapping[str, Estimator | Build],
        *,
        vectorize: Vectorize = "auto",
    ) -> None:
        super().__init__(model, vectorize=vectorize)
        _require_patterns(estimators)
        parts: dict[str, Estimator] = {}
        self._owner: dict[Node, Estimator] = {}
        for pattern, build in estimators.items():
            own = self._own(pattern, estimators)
            if not own:
                continue
            with covering(own.values()):
                parts[pattern] = _composable(pattern, built(build, self.model, f"the estimator for {pattern!r}"), own)
            self._owner.update(dict.fromkeys(own.values(), parts[pattern]))
        self.estimators = Named(parts)
        counts = {pattern: part.samples for pattern, part in self.estimators.items()}
        if len(set(counts.values())) > 1:
            most = max(counts.values())
            raise ValueError(
                f"samples differ, {counts}: the estimators of PerNode share their runs, so give all the same number, such as "
                f"partial(StraightThrough, samples={most})"
            )
        self.samples = max(counts.values(), default=1)

    def _own(self, pattern: str, patterns: Mapping[str, object]) -> dict[str, Node]:
        """The nodes that a pattern matches and none before it."""
        matched = {n: node for n, node in self.nodes.items() if n == pattern or fnmatchcase(n, pattern)}
        if not matched and pattern != "*":
            raise ValueError(f"no node is called {pattern!r}: the nodes of the model are {', '.join(self.nodes)}")
        own = {name: node for name, node in matched.items() if node not in self._owner}
        if not own and pattern != "*":
            before = list(patterns)[: list(patterns).index(pattern)]
            raise ValueError(
                f"all nodes that {pattern!r} matches ({', '.join(matched)}) belong to earlier patterns ({', '.join(before)}): "
                "the first that matches a node wins, so put the narrower pattern first"
            )
        return own

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        first = {"nodes.0": partial(ScoreFunction, baseline="mean"), "*": ScoreFunction}
        return {
            "PerNode-scores": partial(cls, estimators=first),
            "PerNode-mixed": partial(
                cls, estimators={"nodes.0": StraightThrough, "*": partial(ScoreFunction, baseline="optimal")}
            ),
        }

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        left_over = [node for node in self.nodes.values() if node.discrete and node not in self._owner]
        return not left_over and all(part.unbiased for part in self.estimators.values())

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return all(part.stochastic for part in self.estimators.values())

    @property
    def any_cost(self) -> bool:  # type: ignore[override]
        return all(part.any_cost for part in self.estimators.values())

    @property
    def split_sums(self) -> bool:  # type: ignore[override]
        return any(part.split_sums for part in self.estimators.values())

    @property
    def local_credit(self) -> bool:  # type: ignore[override]
        return any(part.local_credit for part in self.estimators.values())

    @property
    def credit(self) -> Credits:  # type: ignore[override]
        """Each estimator has its own; this is that of nodes without local credit."""
        return "global"

    @credit.setter
    def credit(self, credit: Credits) -> None:
        raise AttributeError(
            "the credit of PerNode is that of its estimators: declare it there, such as "
            'dither.PerNode(net, {"gate": partial(dither.ScoreFunction, credit="causal")})'
        )

    def credits_of(self, node: Node) -> Credits:
        owner = self.owner(node)
        return owner.credits_of(node) if owner is not None and owner.local_credit else self.credit

    @property
    def traces(self) -> bool:
        return any(part.traces for part in self.estimators.values())

    def owner(self, node: Node) -> Estimator | None:
        """The estimator that has this node."""
        return self._owner.get(node)

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        owner = self.owner(call.node)
        return owner.sample(call) if owner else (call.propagate(), None)

    @property
    def credits_examples(self) -> bool:  # type: ignore[override]
        return any(part.credits_examples for part in self.estimators.values())

    @property
    def credits_batches(self) -> bool:  # type: ignore[override]
        return all(part.credits_batches for part in self.estimators.values())

    def credits(self, node: Node) -> bool:
        owner = self.owner(node)
        return owner is not None and owner.credits_examples and owner.credits(node)

    def surrogate(self, site: Site, costs: Tensor) -> Tensor | None:
        owner = self.owner(site.node)
        return owner.surrogate(site, costs) if owner else None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        with ExitStack() as stack:
            for part in self.estimators.values():
                stack.enter_context(part.frozen())
            yield


def _require_patterns(estimators: object) -> None:
    if not isinstance(estimators, Mapping):
        given = f"the class {estimators.__name__}" if isinstance(estimators, type) else type(estimators).__name__
        raise TypeError(
            f"estimators is {given}: give a dict of module names or patterns, dither.PerNode(net, "
            "{'gate': dither.DisARM}); for one estimator of all nodes no PerNode is needed"
        )


def _composable(pattern: str, part: Estimator, own: dict[str, Node]) -> Estimator:
    """The estimator, if `sample` and `surrogate` for these nodes are all that there is to it."""
    if part.nodes != own:
        raise ValueError(
            f"the estimator for {pattern!r} was built on another module: it covers {', '.join(part.nodes)} instead of "
            f"{', '.join(own)}; build it on the model that it is given, {{{pattern!r}: {type(part).__name__}}}"
        )
    if reason := _more_than_shared_runs(part):
        raise TypeError(
            f"{type(part).__name__} for {pattern!r} {reason}, and so takes all nodes of a model together; "
            f"use it by itself, {type(part).__name__}(net), or one that composes: {COMPOSABLE}"
        )
    return part


def _more_than_shared_runs(part: Estimator) -> str | None:
    """What it needs besides `sample` and `surrogate`, all that PerNode asks of its parts; None: nothing."""
    kind = type(part)
    if any(getattr(kind, name) is not getattr(Estimator, name) for name in ("__call__", "forward", "estimate")):
        return "calls the closure itself"
    if kind.runs is not Estimator.runs or part.runs_depend_on_layout:
        return "makes runs of its own"
    if part.multi_sample or kind.value is not Estimator.value:
        return "has another value than the mean cost of all runs"
    if part.needs_sample_gradients:
        return "takes d cost / d output of every node"
    if part.run_type is not Run:
        return "keeps samples in a form of its own"
    whole = part.composable and kind.assemble in (Estimator.assemble, ScoreFunction.assemble)
    return None if whole else "puts its loss together in a way of its own"


# --- for oracles ----------------------------------------------------------------------------------------------------------
def _partition(estimator: PerNode, node: Node, logits: Tensor, stream: int) -> tuple[Tensor, Tensor] | None:
    owner = estimator.owner(node)
    return owner.oracle.partition(owner, node, logits, stream) if owner else None


PerNode.oracle = Oracle(partition=_partition)
