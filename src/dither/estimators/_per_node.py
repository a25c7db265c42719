from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import partial

from torch import Tensor, nn

from dither.estimators.core.call import Call
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.execution import Run
from dither.estimators.core.site import Site
from dither.estimators.propagating._straight_through import StraightThrough
from dither.estimators.score._score_function import ScoreFunction
from dither.exact import Oracle
from dither.nodes import Node


class PerNode(Estimator):
    """A different estimator for different nodes of one model.

    >>> from functools import partial
    >>> import torch, dither
    >>> net = torch.nn.ModuleDict({"gate": dither.Bernoulli(), "code": dither.Categorical()})
    >>> score = partial(dither.ScoreFunction, baseline="optimal")
    >>> dither.PerNode(net, {"gate": score, "code": dither.StraightThrough})
    PerNode(samples=1, nodes=[gate, code])
    >>> [dither.PerNode(net, {"gate": score, "code": code}).unbiased for code in (dither.StraightThrough, dither.NVIL)]
    [False, True]

    estimators: module name, or shell-style pattern ("encoder.*"), -> anything that builds an estimator on a model; the
    first that matches a node wins. Nodes that none matches back-propagate by their own sampler. All must use the same
    number of samples: they share the runs of the closure. Unbiased if every estimator is, and no discrete node is left over.
    """

    reference = "composition"

    def __init__(
        self, model: nn.Module, estimators: Mapping[str, Callable[[nn.Module], Estimator]], *, vectorize: bool = True
    ) -> None:
        super().__init__(model, vectorize=vectorize)
        self.children: dict[str, Estimator] = {}
        self._owner: dict[Node, Estimator] = {}
        for pattern, build in estimators.items():
            matched = {n: node for n, node in self.nodes.items() if n == pattern or fnmatchcase(n, pattern)}
            if not matched and pattern != "*":
                raise ValueError(f"no node is called {pattern!r}: the nodes of the model are {', '.join(self.nodes)}")
            child = build(self.model)
            if not child.composable or _takes_all(child):
                raise TypeError(f"{type(child).__name__} for {pattern!r} takes all nodes of a model together: use it by itself")
            child.nodes = {n: node for n, node in matched.items() if node not in self._owner}
            self._owner.update(dict.fromkeys(child.nodes.values(), child))
            self.children[pattern] = child
        counts = {pattern: child.samples for pattern, child in self.children.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"samples differ, {counts}: the estimators of PerNode share their runs, give all the same number")
        self.samples = max(counts.values(), default=1)

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
        return not left_over and all(child.unbiased for child in self.children.values())

    def owner(self, node: Node) -> Estimator | None:
        """The estimator that has this node."""
        return self._owner.get(node)

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        owner = self.owner(call.node)
        return owner.sample(call) if owner else (call.propagate(), None)

    @property
    def split_sums(self) -> bool:  # type: ignore[override]
        return any(child.split_sums for child in self.children.values())

    @property
    def local_credit(self) -> bool:  # type: ignore[override]
        return any(child.local_credit for child in self.children.values())

    def surrogate(self, site: Site, costs: Tensor) -> Tensor | None:
        owner = self.owner(site.node)
        return owner.surrogate(site, costs) if owner else None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        with ExitStack() as stack:
            for child in self.children.values():
                stack.enter_context(child.frozen())
            yield

    def state_dict(self) -> dict[str, Tensor]:
        return {
            f"{pattern}/{name}": tensor
            for pattern, child in self.children.items()
            for name, tensor in child.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        unknown = {name for name in state if name.partition("/")[0] not in self.children}
        if unknown:
            raise ValueError(f"state for {sorted(unknown)}, but the estimators are {', '.join(self.children)}")
        for pattern, child in self.children.items():
            prefix = f"{pattern}/"
            child.load_state_dict({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})

    def parameters(self) -> Iterator[nn.Parameter]:
        for child in self.children.values():
            yield from child.parameters()


def _takes_all(child: Estimator) -> bool:
    """Whether it is more than `sample` and `surrogate`: PerNode asks for nothing else of its parts."""
    own = ("__call__", "runs", "value")
    return child.run_type is not Run or any(getattr(type(child), name) is not getattr(Estimator, name) for name in own)


# --- for oracles ----------------------------------------------------------------------------------------------------------
def _partition(estimator: PerNode, node: Node, logits: Tensor, stream: int) -> tuple[Tensor, Tensor] | None:
    owner = estimator.owner(node)
    return owner.oracle.partition(owner, node, logits, stream) if owner else None


PerNode.oracle = Oracle(partition=_partition)
