from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dither.estimators._call import Call
from dither.estimators._estimator import Estimator, Layout
from dither.estimators._site import Site
from dither.functional._bernoulli import widen
from dither.nodes import Bernoulli, Node
from dither.noise import LARGEST


class LayerwisePairs(Estimator):
    """Base of the antithetic pairs for nets of any depth: one run, and for each layer one more, in which that layer's uniforms
    are turned to 1 - u while all others stay as they are.

    Runs before a layer are equal to the first run (a shared prefix); those behind it take what comes out of the turned layer,
    by the same uniforms. Given the prefix, E[f | b] of both members of the pair is that of a fresh suffix, so an estimator
    that is linear in the two costs is unbiased; and the shared uniforms take the suffix's noise out of their difference.
    """

    supports = (Bernoulli,)
    planned = True
    composable = False
    local_credit = True

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {f"{cls.__name__}-{k}": partial(cls, samples=k) for k in (1, 2)}

    def runs(self, layout: Layout) -> int:
        return self.samples * (1 + len(layout))

    def answer(self, call: Call) -> tuple[Tensor, Tensor | None]:
        of_group = 1 + len(self._layout)
        group, turned = call.run // of_group, call.run % of_group - 1
        noise = call.noise(group if self.samples > 1 else 0, same=call.index <= turned, among=self.samples)
        if not call.node.discrete:
            return call.node.propagate(call.logits, noise), None
        noise = torch.where(turned == call.index, (1 - noise).clamp(max=LARGEST), noise)
        outcome = call.node.outcome(call.logits, noise)
        return call.node.emit(call.logits, outcome), self.record(outcome, noise)

    def record(self, outcome: Tensor, noise: Tensor) -> Tensor:
        """What the surrogate needs of a call, as its site's outcome."""
        return outcome

    def breaks(self, node: Node, logits: Tensor, stream: int) -> Tensor | None:
        if not isinstance(node, Bernoulli):
            return None
        a = widen(logits)
        return torch.stack((torch.sigmoid(a), torch.sigmoid(-a)))

    def pair(self, site: Site, values: Tensor) -> tuple[Tensor, Tensor]:
        """The two members, (samples, ...) each, of a tensor with one entry for each run."""
        groups = values.unflatten(0, (self.samples, 1 + len(self._layout)))
        return groups[:, 0], groups[:, 1 + site.index]


class DisARM(LayerwisePairs):
    """DisARM, also known as U2G: an antithetic pair of binary samples, with the uniforms integrated out.

    Estimates   d E[L] / d a_i for every logit; unbiased at any depth.
    Formula     1/2 (L(b) - L(b')) (b_i - b'_i) max(s_i, 1 - s_i),  b = 1[u < s], b' = 1[1 - u < s], s = sigmoid(a): zero for
                units that agree in both.
    Requires    samples x (1 + layers) evaluations of the closure: a first run, and one for each layer in which its uniforms are
                turned to 1 - u; two for a net with one layer. Any cost, differentiable or not. Bernoulli nodes only.
    Local cost  a closure that returns (batch, terms) gives each unit the difference of those terms that it can influence.
    Raises      TypeError for a model with another discrete node.
    Reference   Dong, Mnih, Tucker 2020, "DisARM: an antithetic gradient estimator for binary latent variables", Eq. 6;
                Yin, Ho, Yan, Qian, Zhou 2020, "Probabilistic best subset selection via gradient-based optimization" (U2G).
    """

    unbiased = True
    reference = "Dong, Mnih, Tucker 2020, Eq. 6"

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        first, second = self.pair(site, site.credit(costs))
        h, turned = self.pair(site, site.outcome)
        logits, _ = self.pair(site, site.logits)
        s = torch.sigmoid(widen(logits.detach()))
        estimate = 0.5 * (first - second) * (h - turned) * torch.maximum(s, 1 - s)
        return site.along_logits(estimate / self.samples, logits)
