from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import permutations

import torch
from torch import Tensor, nn

from dither.estimators.core.call import Call
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.site import Site
from dither.exact import Oracle
from dither.functional import gumbel, one_hot, proper_logits, widen
from dither.nodes import Node

_MOST = 6  # its sums run over all orders of the samples
_RAREST = -100.0  # log-probabilities below this one count as this one where a ratio of them is needed


class UnorderedSet(Estimator):
    """The unordered-set estimator: k different categories, drawn without replacement, with a baseline from within the set.

    >>> import torch, dither
    >>> node, logits = dither.Categorical(), torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    >>> cost = lambda: node(logits) @ torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)
    >>> torch.autograd.grad(dither.UnorderedSet(node, samples=3)(cost), logits)[0]  # a set of all three: exact
    tensor([[-0.1480,  0.5765, -0.4285]], dtype=torch.float64)
    >>> torch.autograd.grad(dither.Exact(node)(cost), logits)[0]
    tensor([[-0.1480,  0.5765, -0.4285]], dtype=torch.float64)

    Estimates   d E[L] / d a for every logit of one categorical unit; unbiased, and exact where k is the number of categories.
    Formula     sum over s in S of p_s R(S, s) (L_s - b_s) d log p_s / d a                                           (1)
                b_s = sum over s' in S of p_s' R(S\\s, s') L_s'                                                      (2)
                R(S, s) = P(S\\s without s in the domain) / P(S), R(S\\s, s) = 1: leave-one-out ratios               (3)
                P(S) the probability of sampling the set S in any order.
    Sampling    Gumbel top-k of the node's own noise: the first run is the node's own sample, each other takes the next best.
    Value       the mean cost of the first run.
    Limits      a closure that calls one Categorical node once, with one unit per example, (batch, K) or (batch, 1, K): a set of
                joint outcomes of several units cannot be drawn unit by unit. samples from 2 to 6, and at most K.
    Requires    samples evaluations of the closure. Any cost, differentiable or not; it must be finite for forbidden categories
                too where fewer than `samples` are allowed.
    Raises      ValueError for other closures, more samples than categories, or samples out of range; TypeError for a model with
                another discrete node.
    Reference   Kool, van Hoof, Welling 2020, "Estimating gradients for discrete random variables by sampling without
                replacement" (unordered set policy gradient with built-in baseline).
    """

    unbiased = True
    reference = "Kool, van Hoof, Welling 2020"
    requires = ("one_hot",)
    composable = False
    credits_batches = False
    former_order = ("samples",)

    def __init__(self, model: nn.Module, *, samples: int = 2, vectorize: Vectorize = "auto", repeated: bool = False) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize, repeated=repeated)
        if not 2 <= samples <= _MOST:
            raise ValueError(
                f"samples is {samples}: a set of 2 to {_MOST} categories is needed (all its orders are summed over)"
            )

    @classmethod
    def fewest_samples(cls, words: Collection[str] = ()) -> int:
        return 2

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {}  # for nets with one unit only, which the zoo has few of: tests/estimators/test_score_family.py

    def own_runs(self, values: Tensor) -> Tensor:
        return values[:1]

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        node, logits = call.node, call.logits
        noise = call.noise(0)
        if not node.discrete:
            return node.propagate(logits, noise), None
        self._require_one_unit(call)
        wide = proper_logits(logits.detach())
        order = (wide + gumbel(noise)).argsort(dim=-1, descending=True, stable=True)
        taken = torch.arange(logits.shape[-1], device=logits.device, dtype=torch.int64) == call.run
        sample = one_hot((order * taken).sum(-1), wide)
        sample = torch.add(sample, wide.softmax(-1), alpha=0).to(logits.dtype)  # carries NaN
        return call.output(sample), sample

    def _require_one_unit(self, call: Call) -> None:
        shape = tuple(call.logits.shape[1:])
        if call.index > 0 or shape[:-1] not in ((), (1,)):
            what = "a second call" if call.index > 0 else f"logits for {shape[:-1]} units"
            raise ValueError(
                f"UnorderedSet draws one set of categories per example, but the closure made {what} of node "
                f"'{call.node._name}' (logits {tuple(call.logits.shape)}): it is for one call of one unit; "
                "use CARMS or SumAndSample"
            )
        if self.samples > shape[-1]:
            raise ValueError(
                f"samples is {self.samples} but node '{call.node._name}' has {shape[-1]} categories: no set of as many "
                f"different ones can be drawn; use samples={shape[-1]} (exact) or fewer"
            )

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        k, batch = site.sample.shape[:2]
        logits, sample = site.logits[:1], site.sample.view(k, batch, -1)
        log_p = torch.log_softmax(proper_logits(logits.detach()), -1).view(batch, -1)
        p, floored = log_p.exp(), log_p.clamp(min=_RAREST)
        log_p_in_set, outside = (sample * floored).sum(-1), _mass(floored, sample.sum(0) < 0.5)
        ratio, second, other = _leave_out(log_p_in_set.T, outside)  # (3): (batch, k), (batch, k, k - 1)
        cost, own = widen(costs).sum(-1).T, (sample * p).sum(-1).T
        baseline = own * cost + (second * (own * cost)[:, other]).sum(-1)  # (2), s' = s by itself
        weight = own * ratio * (cost - baseline)  # (1), before d log p_s / d a = one-hot - p
        estimate = (weight.T.unsqueeze(-1) * (sample - p)).sum(0)
        return site.along_logits(estimate.view(logits.shape), logits)


def _mass(log_p: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, log_p, -torch.inf).logsumexp(-1)


def _draws(log_p: Tensor, outside: Tensor) -> Tensor:
    """Log-probability of each next draw without replacement. log_p: (..., k) in the order of the draws; outside: (...) log
    probability of all that is not drawn. What is left is summed up, not subtracted from 1: that would cancel."""
    left = torch.cat((log_p, outside.unsqueeze(-1)), -1).flip(-1).logcumsumexp(-1).flip(-1)
    return log_p - left[..., :-1]


def _leave_out(log_p: Tensor, outside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """R(S, s), (batch, k); R(S\\s, s') for the other s', (batch, k, k - 1), and which those are, (k, k - 1).

    Sums over all orders of S, in lexicographic order: those that begin with s are a block, in it those that go on with s'.
    Behind its first draws an order has the probability that the rest has without them in the domain.
    """
    k = log_p.shape[-1]
    orders = torch.tensor(list(permutations(range(k))), device=log_p.device, dtype=torch.int64)
    terms = _draws(log_p[:, orders], outside.unsqueeze(-1).expand(-1, len(orders)))
    whole = terms.sum(-1).logsumexp(-1, keepdim=True)
    one = terms[..., 1:].sum(-1).unflatten(1, (k, -1)).logsumexp(-1)
    two = terms[..., 2:].sum(-1).unflatten(1, (k, k - 1, -1)).logsumexp(-1)
    other = orders.view(k, k - 1, -1, k)[:, :, 0, 1]
    return (one - whole).exp(), (two - one.unsqueeze(-1)).exp(), other


# --- for oracles ----------------------------------------------------------------------------------------------------------
def _partition(estimator: UnorderedSet, node: Node, logits: Tensor, stream: int) -> tuple[Tensor, Tensor] | None:
    """One part for every ordered draw of k categories."""
    if not node.one_hot:
        return None
    log_p = torch.log_softmax(proper_logits(logits.detach()), -1).clamp(min=_RAREST)
    noise, log_weight = [], []
    for order in permutations(range(log_p.shape[-1]), estimator.samples):
        taken = torch.zeros(log_p.shape[-1], dtype=torch.bool, device=log_p.device)
        taken[list(order)] = True
        perturbed = taken.to(log_p.dtype)  # what the Gumbels are to make of the logits
        perturbed[list(order)] = torch.arange(len(order), 0, -1, dtype=log_p.dtype, device=log_p.device)
        noise.append(-torch.expm1(-torch.exp(log_p - perturbed)))
        log_weight.append(_draws(log_p[..., list(order)], _mass(log_p, ~taken)).sum(-1))
    return torch.stack(noise), torch.stack(log_weight)


UnorderedSet.oracle = Oracle(partition=_partition)
