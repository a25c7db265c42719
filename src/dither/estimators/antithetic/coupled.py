"""n coupled samples of each unit, for nets of any depth."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor, nn

from dither.estimators.core.call import Call, Layout
from dither.estimators.core.credit import Credits
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.site import Site
from dither.exact import Oracle
from dither.nodes import Node


class LayerwiseSamples(Estimator):
    """Base of the estimators with n coupled samples: a first run, and for each layer n - 1 more, in which that layer takes the
    other members of its coupling while all else keeps the first run's noise.

    Runs before the layer are equal to the first run (a shared prefix); those behind it take what comes out of it by the same
    noise. Given the prefix every member's cost has the expectation of a fresh suffix, so an estimator that is linear in the
    costs needs to know no more than the probabilities of pairs of outcomes.
    """

    runs_depend_on_layout = True
    runs_differ_by_kind = True
    composable = False
    local_credit = True
    former_order = ("samples",)

    def __init__(
        self, model: nn.Module, *, samples: int = 2, credit: Credits = "traced", vectorize: Vectorize = "auto"
    ) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize)
        self.credit = credit
        if samples < 2:
            raise ValueError(f"samples is {samples}: {type(self).__name__} compares coupled samples, so it needs at least 2")

    @classmethod
    def fewest_samples(cls, words: Collection[str] = ()) -> int:
        return 2

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {f"{cls.__name__}-{n}": partial(cls, samples=n) for n in (2, 3, 4)}

    def runs(self, layout: Layout) -> int:
        return 1 + (self.samples - 1) * len(layout)

    def own_runs(self, values: Tensor) -> Tensor:
        # Where samples say how many runs there are, the mean of all weighs short ones more.
        return values[:1] if self.reading else values

    def layer(self, call: Call) -> Tensor:
        """The layer whose other members the present run takes; -1 in the first run."""
        return (call.run - 1) // (self.samples - 1)

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        if not call.node.discrete:
            return call.node.propagate(call.logits, call.noise(0)), None
        member = torch.where(self.layer(call) == call.index, (call.run - 1) % (self.samples - 1) + 1, 0)
        sample = self.member(call, member)
        return call.output(sample), sample

    @abstractmethod
    def member(self, call: Call, member: Tensor) -> Tensor:
        """The sample of member 0, ..., n - 1 of the coupling."""

    @abstractmethod
    def thresholds(self, node: Node, logits: Tensor) -> Tensor:
        """What uniforms are compared with."""

    def uniforms(self, call: Call, member: Tensor) -> Tensor:
        """A member's uniforms: the n members of a unit are spread evenly over a circle, in an order of its own."""
        first, n = call.noise(0), self.samples
        shift = member
        if n > 3:  # of up to 3 all pairs are equally far apart; in a common order, near pairs would be near in all units
            order = shuffled([call.noise(0, stream=i) for i in range(1, n - 1)], n)
            shift = torch.where(
                torch.arange(n, device=first.device, dtype=torch.int64).view(-1, *[1] * first.dim()) == member, order, 0
            ).sum(0)
        return (first + shift.to(first.dtype) / n).remainder(1)

    def members(self, site: Site, values: Tensor) -> Tensor:
        """The n members, (n, ...), of a tensor with one entry for each run."""
        start, others = 1 + site.index * (self.samples - 1), self.samples - 1
        return torch.cat((values[:1], values[start : start + others]))


def shuffled(uniforms: list[Tensor], count: int) -> Tensor:
    """0, and 1 to count - 1 in a random order, (count, *shape): place i is swapped with one of places i, ..., count - 1."""
    place = torch.arange(count, device=uniforms[0].device, dtype=torch.int64).view(-1, *[1] * uniforms[0].dim())
    order = place.expand(count, *uniforms[0].shape)
    for i, uniform in enumerate(uniforms, 1):
        other = (i + (uniform * (count - i)).long()).unsqueeze(0)
        order = torch.where(place == i, order.gather(0, other), torch.where(place == other, order[i : i + 1], order))
    return order


def discordance(p: Tensor, count: int) -> Tensor:
    """P(b_i = 1, b_j = 0) of a pair of `count` systematic samples: E[S (n - S)] / (n (n - 1)) with S the number of ones."""
    whole = torch.floor(count * p)
    part = count * p - whole
    ones = (1 - part) * whole * (count - whole) + part * (whole + 1) * (count - whole - 1)
    return ones / (count * (count - 1))


# --- for oracles ----------------------------------------------------------------------------------------------------------
def _thresholds(estimator: LayerwiseSamples, node: Node, logits: Tensor, stream: int) -> Tensor | None:
    if not node.discrete:
        return None
    p = estimator.thresholds(node, logits)
    if stream == 0:
        return circle_thresholds(p, estimator.samples)
    places = estimator.samples - stream
    inner = torch.arange(1, places, dtype=p.dtype, device=p.device).view(-1, *[1] * p.dim()) / places
    return inner.expand(places - 1, *p.shape)


def circle_thresholds(p: Tensor, count: int) -> Tensor:
    """Where some member of `count` rotated uniforms crosses p, or 0, as thresholds of the first one."""
    shift = torch.arange(count, dtype=p.dtype, device=p.device).view(-1, *[1] * p.dim()) / count
    return torch.cat(((p - shift).remainder(1), shift[1:].expand(count - 1, *p.shape)))


def _repeats(estimator: LayerwiseSamples, call: Call, stream: int) -> Tensor | bool:
    return stream > 0 or call.index <= estimator.layer(call)


LayerwiseSamples.oracle = Oracle(thresholds=_thresholds, repeats=_repeats)
