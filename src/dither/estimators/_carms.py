from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from dither.estimators._arms import LayerwiseSamples, circle_breaks, rotated
from dither.estimators._call import Call
from dither.estimators._site import Site
from dither.functional._categorical import _proper
from dither.nodes import Categorical, Node


class CARMS(LayerwiseSamples):
    """CARMS: n samples of a categorical net that avoid each other's categories.

    Estimates   d E[L] / d a for every logit; unbiased at any depth.
    Formula     mean over pairs of samples i < j of 1/2 (L_i - L_j) (h_i - h_j) w,  w = p_a p_b / P(h_i = a, h_j = b), with h one-hot:
                leave-one-out of coupled samples, weighed by how much likelier a pair of different categories has become.
    Coupling    stick-breaking: a sample takes the first category, from the least to the most likely, whose coin falls; the coins
                of one category in the n samples are coupled by u_i = (u + i/n) mod 1, those of different categories are
                independent. In this order no coin is likelier than 1/2, so every pair of categories stays possible, w is
                bounded, and two samples agree in a category only where it has more than 1/2 of what is left (n = 2).
                P is in closed form; w is that of a mean pair, and depends on the less likely category of the two alone.
                This coupling is this library's: the paper's copula is put in its place because pairs that it makes
                impossible would bias the estimate. With two categories it is ARMS. A single sample is distributed
                as the node's own, Gumbel-max draw, but for the same noise it is another one.
    Requires    1 + (samples - 1) x layers evaluations of the closure. Any cost, differentiable or not. Categorical nodes only.
    Local cost  a closure that returns (batch, terms) gives each unit the difference of those terms that it can influence.
    Raises      ValueError for samples < 2; TypeError for a model with another discrete node.
    Reference   Dimitriev, Zhou 2021, "CARMS: categorical-antithetic-REINFORCE multi-sample gradient estimator".
    """

    unbiased = True
    reference = "Dimitriev, Zhou 2021 (CARMS), with a coupling of this library"
    supports = (Categorical,)

    def member(self, call: Call, member: Tensor, same: Tensor) -> Tensor:
        coins, rank = sticks(call.logits)
        uniform = rotated(call.noise(0, same=same)[..., : coins.shape[-1]], member, self.samples)
        taken = (uniform >= coins).long().cumprod(-1).sum(-1, keepdim=True)  # how many coins before the first that falls
        hard = (rank == taken).to(coins.dtype)
        return torch.add(hard, _proper(call.logits.detach()).softmax(-1), alpha=0).to(call.logits.dtype)  # carries NaN

    def breaks(self, node: Node, logits: Tensor, stream: int) -> Tensor | None:
        return circle_breaks(sticks(logits)[0], self.samples) if isinstance(node, Categorical) else None

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        credit, h, logits = (self.members(site, v) for v in (site.credit(costs), site.outcome, site.logits))
        coins, rank = sticks(logits[:1])
        weights = pair_weights(coins, self.samples)
        position = (h * rank).sum(-1, keepdim=True).long()
        i, j = torch.tensor(list(combinations(range(self.samples), 2)), device=h.device).T
        earlier = torch.minimum(position[i], position[j]).clamp(max=coins.shape[-1] - 1)
        weight = weights.expand(len(i), *weights.shape[1:]).gather(-1, earlier)
        estimate = 0.5 * (credit[i] - credit[j]).unsqueeze(-1) * (h[i] - h[j]) * weight
        return site.along_logits(estimate.mean(0, keepdim=True), logits[:1])


def sticks(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(the K - 1 probabilities of the coins, from the least likely category on, each at most 1/2; the rank of each category)."""
    log_p, order = torch.log_softmax(_proper(logits.detach()), -1).sort(dim=-1, stable=True)
    left = log_p.flip(-1).logcumsumexp(-1).flip(-1)
    return (log_p - left)[..., :-1].exp().clamp(max=0.5), order.argsort(-1)


def pair_weights(coins: Tensor, count: int) -> Tensor:
    """p_a p_b / P(h_i = a, h_j = b) for a pair whose less likely category has each rank; P is the mean over pairs."""
    inverse = torch.zeros_like(coins)
    for k in range(1, count):  # count - k pairs of samples at k steps on the circle
        distance = min(k, count - k) / count
        apart = torch.minimum(coins, torch.full_like(coins, distance))  # one coin falls, the other does not
        neither = (1 - coins - apart) / (1 - coins).square()
        before = torch.cat((torch.ones_like(coins[..., :1]), neither[..., :-1].cumprod(-1)), -1)
        one = torch.where(coins > distance, distance / coins, 1) / (1 - coins)
        inverse = inverse + (count - k) * before * one
    return count * (count - 1) / 2 / inverse
