"""Antithetic pairs of binary samples, for nets of any depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from dither.estimators.core.call import Call, Layout
from dither.estimators.core.credit import Credits
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.site import Site
from dither.exact import Oracle
from dither.functional import widen
from dither.nodes import Node
from dither.noise import LARGEST


class LayerwisePairs(Estimator):
    """Base of the antithetic pairs: one run, and for each layer one more, in which that layer's uniforms are turned to 1 - u
    while all others stay as they are.

    Runs before a layer are equal to the first run (a shared prefix); those behind it take what comes out of the turned layer,
    by the same uniforms. Given the prefix, E[f | b] of both members of the pair is that of a fresh suffix, so an estimator
    that is linear in the two costs is unbiased; and the shared uniforms take the suffix's noise out of their difference.
    """

    requires = ("binary",)
    runs_together = 2
    runs_depend_on_layout = True
    runs_differ_by_kind = True
    composable = False
    local_credit = True

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        *,
        samples: int = 2,
        credit: Credits = "traced",
        vectorize: Vectorize = "auto",
        repeated: bool = False,
    ) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize, repeated=repeated)
        self.credit = credit

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {f"{cls.__name__}-{k}": partial(cls, samples=k) for k in (2, 4)}

    @property
    def pairs(self) -> int:
        """Pairs of runs, for a net with one layer: `samples` counts their members."""
        return self.samples // 2

    def runs(self, layout: Layout) -> int:
        return self.pairs * (1 + len(layout))

    @property
    def groups(self) -> int:
        return self.pairs

    def own_runs(self, values: Tensor) -> Tensor:
        # Where samples say how many runs there are, the mean of all weighs short ones more.
        return values.unflatten(0, (self.pairs, -1))[:, 0] if self.reading else values

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        group, layer = call.run // (1 + len(call.layout)), turned_layer(call)
        noise = call.noise(group if self.pairs > 1 else 0, groups=self.pairs)
        if not call.node.discrete:
            return call.node.propagate(call.logits, noise), None
        noise = torch.where(layer == call.index, (1 - noise).clamp(max=LARGEST), noise)
        sample = call.node.sample(call.logits, noise)
        return call.output(sample), self.record(sample, noise)

    def record(self, sample: Tensor, noise: Tensor) -> Tensor:
        """What the surrogate needs of a call, as its site's sample."""
        return sample

    def pair(self, site: Site, values: Tensor) -> tuple[Tensor, Tensor]:
        """The two members, (pairs, ...) each, of a tensor with one entry for each run."""
        groups = values.unflatten(0, (self.pairs, 1 + site.count))
        return groups[:, 0], groups[:, 1 + site.index]


def turned_layer(call: Call) -> Tensor:
    """The layer whose uniforms are turned in the present run; -1 in the first of a group."""
    return call.run % (1 + len(call.layout)) - 1


# --- for oracles ----------------------------------------------------------------------------------------------------------
def thresholds(estimator: LayerwisePairs, node: Node, logits: Tensor, stream: int) -> Tensor | None:
    if not node.discrete:
        return None
    a = widen(logits)
    return torch.stack((torch.sigmoid(a), torch.sigmoid(-a)))


def repeats(estimator: LayerwisePairs, call: Call, stream: int) -> Tensor:
    return call.index <= turned_layer(call)


LayerwisePairs.oracle = Oracle(thresholds=thresholds, repeats=repeats)
