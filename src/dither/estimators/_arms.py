from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from dither import exact
from dither.estimators._call import Call
from dither.estimators._estimator import Estimator, Layout
from dither.estimators._site import Site
from dither.functional._bernoulli import widen
from dither.nodes import Bernoulli, Node
from dither.noise import LARGEST


class LayerwiseSamples(Estimator):
    """Base of the estimators with n coupled samples: a first run, and for each layer n - 1 more, in which that layer takes the
    other members of its coupling while all else keeps the first run's noise.

    Runs before the layer are equal to the first run (a shared prefix); those behind it take what comes out of it by the same
    noise. Given the prefix every member's cost has the expectation of a fresh suffix, so an estimator that is linear in the
    costs needs to know no more than the probabilities of pairs of outcomes.
    """

    planned = True
    composable = False
    local_credit = True

    def __init__(self, model: nn.Module, samples: int = 2, *, vectorize: bool = True) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize)
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

    def answer(self, call: Call) -> tuple[Tensor, Tensor | None]:
        others = self.samples - 1
        layer = (call.run - 1) // others  # -1 in the first run
        same = call.index <= layer
        if not call.node.discrete:
            return call.node.propagate(call.logits, call.noise(0, same=same)), None
        member = torch.where(layer == call.index, (call.run - 1) % others + 1, 0)
        outcome = self.member(call, member, same)
        return call.node.emit(call.logits, outcome), outcome

    @abstractmethod
    def member(self, call: Call, member: Tensor, same: Tensor) -> Tensor:
        """The outcome of member 0, ..., n - 1 of the coupling."""

    @abstractmethod
    def thresholds(self, node: Node, logits: Tensor) -> Tensor:
        """What uniforms are compared with."""

    def uniforms(self, call: Call, member: Tensor, same: Tensor) -> Tensor:
        """A member's uniforms: the n members of a unit are spread evenly over a circle, in an order of its own."""
        first, n = call.noise(0, same=same), self.samples
        shift = member
        if n > 3:  # of up to 3 all pairs are equally far apart; in a common order, near pairs would be near in all units
            order = shuffled([call.noise(0, stream=i) for i in range(1, n - 1)], n)
            shift = torch.where(torch.arange(n, device=first.device).view(-1, *[1] * first.dim()) == member, order, 0).sum(0)
        return (first + shift.to(first.dtype) / n).remainder(1)

    def breaks(self, node: Node, logits: Tensor, stream: int) -> Tensor | None:
        if not node.discrete:
            return None
        p = self.thresholds(node, logits)
        if stream == 0:
            return circle_breaks(p, self.samples)
        places = self.samples - stream
        inner = torch.arange(1, places, dtype=p.dtype, device=p.device).view(-1, *[1] * p.dim()) / places
        return inner.expand(places - 1, *p.shape)

    def members(self, site: Site, values: Tensor) -> Tensor:
        """The n members, (n, ...), of a tensor with one entry for each run."""
        start, others = 1 + site.index * (self.samples - 1), self.samples - 1
        return torch.cat((values[:1], values[start : start + others]))


def shuffled(uniforms: list[Tensor], count: int) -> Tensor:
    """0, and 1 to count - 1 in a random order, (count, *shape): place i is swapped with one of places i, ..., count - 1."""
    place = torch.arange(count, device=uniforms[0].device).view(-1, *[1] * uniforms[0].dim())
    order = place.expand(count, *uniforms[0].shape)
    for i, uniform in enumerate(uniforms, 1):
        other = (i + (uniform * (count - i)).long()).unsqueeze(0)
        order = torch.where(place == i, order.gather(0, other), torch.where(place == other, order[i : i + 1], order))
    return order


def circle_breaks(p: Tensor, count: int) -> Tensor:
    """Where some member of `count` rotated uniforms crosses p, or 0, as thresholds of the first one."""
    shift = torch.arange(count, dtype=p.dtype, device=p.device).view(-1, *[1] * p.dim()) / count
    return torch.cat(((p - shift).remainder(1), shift[1:].expand(count - 1, *p.shape)))


class ARMS(LayerwiseSamples):
    """ARMS: n samples of a binary net, each pair of which is negatively correlated in every unit.

    Estimates   d E[L] / d a_i for every logit; unbiased at any depth.
    Formula     1 / (n - 1) sum_i (L_i - mean L) (b_i - mean b) / (1 - rho): leave-one-out of coupled samples, divided by what
                the coupling takes off; rho is a unit's correlation in a pair of samples, known in closed form.
    coupling    how the uniforms u_1, ..., u_n of one unit depend on each other; b_i = 1[u_i < s], s = sigmoid(a).
                "systematic"  u_i = (u + c_i / n) mod 1 with c an order of 0, ..., n - 1, random per unit: the number of ones is
                              n s rounded up or down, so that no coupling has a smaller rho. Not the paper's; the default,
                              because its variance was smaller than the other's, or equal within 2%, on 24 one-layer nets
                              of 1 to 50 units with 3, 4 and 8 samples.
                "dirichlet"   the paper's copula: u_i or, for s > 1/2, 1 - u_i is (1 - D_i)^(n-1) with D uniform on the simplex,
                              P(b_i = b_j = 1) = max(0, 2 s^(1/(n-1)) - 1)^(n-1) for s <= 1/2. Not enumerable.
                Both are DisARM for n = 2.
    Requires    1 + (samples - 1) x layers evaluations of the closure: n for a net with one layer. Any cost, differentiable or
                not. Bernoulli nodes only.
    Local cost  a closure that returns (batch, terms) gives each unit the difference of those terms that it can influence.
    Raises      ValueError for samples < 2; TypeError for a model with another discrete node.
    Reference   Dimitriev, Zhou 2021, "ARMS: antithetic-REINFORCE-multi-sample gradient for binary variables"
                (estimator and Dirichlet copula).
    """

    unbiased = True
    reference = "Dimitriev, Zhou 2021 (ARMS)"
    supports = (Bernoulli,)

    def __init__(
        self,
        model: nn.Module,
        samples: int = 2,
        coupling: Literal["systematic", "dirichlet"] = "systematic",
        *,
        vectorize: bool = True,
    ) -> None:
        super().__init__(model, samples, vectorize=vectorize)
        if coupling not in ("systematic", "dirichlet"):
            raise ValueError(f"coupling is {coupling!r}: it must be 'systematic' or 'dirichlet'")
        self.coupling = coupling

    def member(self, call: Call, member: Tensor, same: Tensor) -> Tensor:
        if self.coupling == "systematic":
            uniform = self.uniforms(call, member, same)
        else:
            noise = torch.stack([call.noise(0, stream=k, same=same) for k in range(self.samples)])
            uniform = _dirichlet(noise, member)
            uniform = torch.where(widen(call.logits.detach()) > 0, 1 - uniform, uniform).clamp(max=LARGEST)
        return call.node.outcome(call.logits, uniform)

    def thresholds(self, node: Node, logits: Tensor) -> Tensor:
        if self.coupling == "dirichlet":
            raise exact.CannotEnumerate(
                "ARMS(coupling='dirichlet') depends on n uniforms of a unit jointly, which dither.exact cannot sum over: use "
                "coupling='systematic', or estimate by a long average, dither.audit(..., reference='average')"
            )
        return torch.sigmoid(widen(logits))

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        n = self.samples
        credit, h, logits = (self.members(site, v) for v in (site.credit(costs), site.outcome, site.logits))
        rare = torch.sigmoid(-widen(logits[:1].detach()).abs())
        covariance = ((credit - credit.mean(0)) * (h - h.mean(0))).sum(0, keepdim=True) / (n - 1)
        discordant = discordance(rare, n) if self.coupling == "systematic" else _dirichlet_discordance(rare, n)
        # r (1 - r) / P(b_i = 1, b_j = 0); a certain unit, r = 0, agrees in all samples, whatever its factor
        factor = (1 - rare) * torch.where(discordant > 0, rare / discordant, 1)
        return site.along_logits(covariance * factor, logits[:1])


def discordance(p: Tensor, count: int) -> Tensor:
    """P(b_i = 1, b_j = 0) of a pair of `count` systematic samples: E[S (n - S)] / (n (n - 1)) with S the number of ones."""
    whole = torch.floor(count * p)
    part = count * p - whole
    ones = (1 - part) * whole * (count - whole) + part * (whole + 1) * (count - whole - 1)
    return ones / (count * (count - 1))


def _dirichlet(noise: Tensor, member: Tensor) -> Tensor:
    """The uniform (1 - D_k)^(n-1) of the copula's member k, D = E / sum E with E exponential. noise: (n, ...)."""
    exponential = -torch.log(noise)
    own = torch.arange(len(noise), device=noise.device).view(-1, *[1] * (noise.dim() - 1)) == member
    rest = torch.where(own, 0, exponential).sum(0) / exponential.sum(0)
    return rest.pow(len(noise) - 1).clamp(torch.finfo(noise.dtype).tiny, LARGEST)


def _dirichlet_discordance(p: Tensor, count: int) -> Tensor:
    return p - (2 * p.pow(1 / (count - 1)) - 1).clamp(min=0).pow(count - 1)
