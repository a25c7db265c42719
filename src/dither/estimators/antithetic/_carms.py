from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from dither.estimators.antithetic.coupled import LayerwiseSamples, discordance
from dither.estimators.core.call import Call
from dither.estimators.core.site import Site
from dither.functional import proper_logits
from dither.nodes import Node


class CARMS(LayerwiseSamples):
    """CARMS: n samples of a categorical net that avoid each other's categories.

    >>> import torch, dither
    >>> node = dither.Categorical()
    >>> node.logits = torch.nn.Parameter(torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64))
    >>> cost = lambda: node(node.logits) @ torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)
    >>> variance = lambda estimator: dither.exact.moments(estimator, cost).variance["logits"].sum().item()
    >>> round(variance(dither.CARMS(node, samples=3)), 2)
    0.36
    >>> round(variance(dither.ScoreFunction(node, baseline="leave-one-out", samples=3)), 2)  # independent samples
    0.65

    Estimates   d E[L] / d a for every logit; unbiased at any depth.
    Formula     mean over pairs of samples i < j of 1/2 (L_i - L_j) (h_i - h_j) w                                    (1)
                w = p_a p_b / P(h_i = a, h_j = b) of h_i = a, h_j = b                                                (2)
                Leave-one-out of coupled one-hot samples, weighed by how much likelier a pair has become.
    Coupling    stick-breaking: a sample takes the first category, in the order of their probabilities, whose coin falls; the
                coins of one category in the n samples are coupled as ARMS's systematic units, those of different categories
                are independent. In this order no coin is likelier than 1/2, so every pair of categories stays possible, w
                is bounded, and two samples agree only where one category has more than half of what is left (n = 2).
                P is in closed form; w depends on the less likely category of the two alone.
                This coupling is this library's: the paper's copula is put in its place because pairs that it makes
                impossible would bias the estimate. With two categories it is ARMS. A single sample is distributed
                as the node's own Gumbel-max sample, but for the same noise it is another one.
    Requires    1 + (samples - 1) x layers evaluations of the closure. Any cost, differentiable or not. Categorical nodes only.
    Local cost  a closure that returns (batch, terms) gives each unit the difference of those terms that it can influence.
    credit      declares which terms those are, as in ScoreFunction; by default they are traced.
    Raises      ValueError for samples < 2; TypeError for a model with another discrete node.
    Reference   Dimitriev, Zhou 2021, "CARMS: categorical-antithetic-REINFORCE multi-sample gradient estimator".
    """

    unbiased = True
    reference = "Dimitriev, Zhou 2021 (CARMS), with a coupling of this library"
    requires = ("one_hot",)

    def member(self, call: Call, member: Tensor) -> Tensor:
        coins, rank = sticks(call.logits)
        uniform = self.uniforms(call, member)[..., : coins.shape[-1]]
        taken = (uniform >= coins).long().cumprod(-1).sum(-1, keepdim=True)  # how many coins before the first that falls
        hard = (rank == taken).to(coins.dtype)
        return torch.add(hard, proper_logits(call.logits.detach()).softmax(-1), alpha=0).to(call.logits.dtype)  # carries NaN

    def thresholds(self, node: Node, logits: Tensor) -> Tensor:
        return sticks(logits)[0]

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        credit, h, logits = (self.members(site, v) for v in (site.credit(costs), site.sample, site.logits))
        coins, rank = sticks(logits[:1])
        weights = pair_weights(coins, self.samples)
        position = (h * rank).sum(-1, keepdim=True).long()
        i, j = torch.tensor(list(combinations(range(self.samples), 2)), device=h.device, dtype=torch.int64).T
        earlier = torch.minimum(position[i], position[j]).clamp(max=coins.shape[-1] - 1)
        # (1); w of a pair depends on the less likely category of the two alone
        weight = weights.expand(len(i), *weights.shape[1:]).gather(-1, earlier)
        estimate = 0.5 * (credit[i] - credit[j]).unsqueeze(-1) * (h[i] - h[j]) * weight
        return site.along_logits(estimate.mean(0, keepdim=True), logits[:1])


def sticks(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(probabilities of the K - 1 coins, from the least likely category on, each at most 1/2; the rank of each category)."""
    log_p, order = torch.log_softmax(proper_logits(logits.detach()), -1).sort(dim=-1, stable=True)
    left = log_p.flip(-1).logcumsumexp(-1).flip(-1)
    return (log_p - left)[..., :-1].exp().clamp(max=0.5), order.argsort(-1)


def pair_weights(coins: Tensor, count: int) -> Tensor:
    """(2): p_a p_b / P(h_i = a, h_j = b), for each rank of the less likely category of a pair."""
    discordant = discordance(coins, count)  # one coin falls, the other does not
    neither = (1 - coins).square() / (1 - coins - discordant)
    before = torch.cat((torch.ones_like(coins[..., :1]), neither[..., :-1].cumprod(-1)), -1)
    return before * (1 - coins) * torch.where(discordant > 0, coins / discordant, 1)
