from __future__ import annotations

import torch
from torch import Tensor, nn

from dither.estimators.control_variates.independent import IndependentSamples
from dither.estimators.control_variates.scales import others
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.ranks import broadcast_module, call_averaged, world
from dither.estimators.core.shapes import flat_units
from dither.estimators.core.site import Site
from dither.functional import widen

_HIDDEN = 100
_PART = 4096


class _Surrogate(nn.Module):
    """H(first-order change, cost) -> the surrogates of the baseline and of the vector control variate, with their scales."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        of = {"dtype": like.dtype, "device": like.device}
        self.first, self.last = nn.Linear(2, _HIDDEN, **of), nn.Linear(_HIDDEN, 2, **of)
        self.scale = nn.Parameter(torch.zeros(2, **of))  # the paper's alpha and beta

    def forward(self, change: Tensor, cost: Tensor) -> Tensor:
        """change, cost (broadcast to it) -> the two surrogates in a leading dimension."""
        inputs = torch.stack((change.flatten(), cost.expand_as(change).flatten())).to(self.scale.dtype)
        # Part by part, or memory for all hidden units of all neighbours is mapped anew at every step: half of its time.
        values = torch.cat([self._values(part) for part in inputs.split(_PART, 1)], 1)
        return (self.scale.unsqueeze(1) * values).view(2, *change.shape)

    def _values(self, inputs: Tensor) -> Tensor:
        h = torch.addmm(self.first.bias.unsqueeze(1), self.first.weight, inputs)  # rows of hidden units: long and contiguous
        h = nn.functional.leaky_relu(h, 0.3, inplace=True)
        return torch.addmm(self.last.bias.unsqueeze(1), self.last.weight, h)


class RODEO(IndependentSamples):
    """RODEO: leave-one-out with two control variates made by a discrete Stein operator from the other samples.

    >>> import torch, dither
    >>> _, node = torch.manual_seed(0), dither.Bernoulli()
    >>> node.logits = torch.nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))
    >>> cost, estimator = lambda: (node(node.logits).sum(1) - 0.4) ** 3, dither.RODEO(node)
    >>> optimizer = torch.optim.Adam(estimator.parameters(), lr=0.01)  # of the surrogates: at first it is leave-one-out
    >>> variance = lambda: dither.exact.moments(estimator, cost).variance["logits"].sum().item()
    >>> before = variance()
    >>> for _ in range(40):
    ...     optimizer.zero_grad(); estimator(cost).backward(); optimizer.step()
    >>> variance() < before
    True

    Estimates   d E[L] / d a for every logit of binary units; unbiased at any depth, whatever the surrogates are.
    Formula     1/K sum_k (L_k - 1/(K-1) sum_{j != k} (L_j + (A h_j)(x_j))) (x_k - s_k) + (A h~_k)(x_k)      (1; Sec. 5)
                (A h)(x) = 1/D sum_i P(flip of x_i) (h(x with x_i flipped) - h(x))                                   (2)
                h_k(y) = mean over j != k of alpha H_1(L_j' (y - x_j), L_j)                                          (3)
                h~_k(y) = (y - s_k) times mean over j != k of beta H_2(L_j' (y - x_j), L_j)                          (4)
                A is the generator of random-scan Gibbs sampling (Barker's rule, for neighbours that differ in one
                unit), of mean zero under P for every h. H takes the first-order change of the cost, with L_j' =
                dL_j / dx_j, and the cost of run j.
    Learning    H, a net of 100 hidden units for each node, and alpha and beta (zero at first: leave-one-out) learn from the
                returned loss, which carries d |gradient|^2 / d phi onto them, and onto nothing else: give
                estimator.parameters() to an optimizer (Adam with 1e-3 in the paper). The update follows the call.
    Requires    samples >= 2 evaluations of the closure, one backward pass, and K (K-1) (units + 1) evaluations of H per
                example. Any cost; Bernoulli nodes only. Terms of a cost are summed.
    Differs     H's values are averaged over j for every K (the paper's choice for K > 2; for K = 2 both are the same). All K
                runs are independent from the first layer on, and sample gradients pass later nodes straight-through; the
                paper draws K samples anew for each layer given one sample of those before.
    Raises      TypeError for other discrete nodes; ValueError for fewer than two samples.
    Reference   Shi, Zhou, Hwang, Titsias, Mackey 2022, "Gradient estimation with discrete Stein operators", Sec. 4-5.
    """

    reference = "Shi et al. 2022, Sec. 5"
    requires = ("binary", "score")
    former_order = ("samples",)

    def __init__(self, model: nn.Module, *, samples: int = 2, vectorize: Vectorize = "auto", repeated: bool = False) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize, repeated=repeated)
        # ambient: the nets of a model without parameters are built as layers are, by torch's defaults
        like = next((p for p in self.model.parameters() if p.is_floating_point()), torch.zeros(()))
        with torch.random.fork_rng(devices=[]):  # building it may not change the user's draws
            self.nets = nn.ModuleDict({n.replace(".", "_"): _Surrogate(like) for n, v in self.nodes.items() if v.discrete})
        if world() > 1:
            broadcast_module(self.nets)

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        estimate = self._estimate(site, widen(costs).sum(-1)) / self.samples
        surrogate = site.along_logits(estimate)
        if not estimate.requires_grad:
            return surrogate
        return surrogate + estimate.sum(0).square().sum() / max(estimate.shape[1], 1)

    def _estimate(self, site: Site, cost: Tensor) -> Tensor:
        """Per sample and logit; a function of the surrogates' parameters alone."""
        s, x = flat_units(torch.sigmoid(widen(site.logits.detach()))), flat_units(widen(site.sample))
        flip = s * (1 - x) + (1 - s) * x
        before, after = self._surrogates(site, cost, x)
        change = (flip * (after - before)).mean(-1)  # (2), of h and of beta H_2
        of_others = site.where_present(change[0])
        score = x - s
        # (2) of (4): A (score H) = score A H, plus this
        turned = flip * after[1] * (1 - 2 * x) / x.shape[-1]  # the flipped unit's own entry of y - s moves too
        baseline = others(cost + of_others)
        # (1)
        estimate = (cost - baseline + change[1]).unsqueeze(-1) * score + turned
        return site.where_present(estimate.view(site.logits.shape))

    def _surrogates(self, site: Site, cost: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """(3), and (4) without its y - s: at x_k, (2, K, batch, 1), and with each unit flipped, (2, K, batch, units)."""
        assert site.sample_gradient is not None
        net, k = self.nets[site.name.partition(":")[0].replace(".", "_")], self.samples
        gradient = flat_units(widen(site.sample_gradient * _step(site)))  # with respect to the bits
        here = torch.einsum("jbd,kbd->kjb", gradient, x) - (gradient * x).sum(-1)
        flipped = here.unsqueeze(-1) + gradient * (1 - 2 * x).unsqueeze(1)
        changes = torch.cat((here.unsqueeze(-1), flipped), -1)
        rows = [[j for j in range(k) if j != i] for i in range(k)]
        index = torch.tensor(rows, device=x.device, dtype=torch.int64)
        changes = changes[torch.arange(k, device=x.device, dtype=torch.int64).unsqueeze(1), index]
        h = call_averaged(net, changes, cost[index].unsqueeze(-1)).mean(2).to(x.dtype)
        return h[..., :1], h[..., 1:]


def _step(site: Site) -> Tensor:
    """The output for 1 less that for 0."""
    one = torch.ones_like(site.sample)
    return site.per_run(site.node.output, site.logits.detach(), one) - site.per_run(
        site.node.output, site.logits.detach(), torch.zeros_like(one)
    )
