from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dither.estimators.blend.least_squares import outer, pairs, quality, weights_of
from dither.estimators.blend.moments import Moments
from dither.estimators.control_variates.independent import IndependentSamples
from dither.estimators.control_variates.scales import others
from dither.estimators.core.credit import Credits
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.shapes import flat_units, mean_over_examples
from dither.estimators.core.site import Site, over_logits
from dither.settings import did_you_mean

INPUTS = ("unbiased", "biased", "logit", "layer", "constant")
_PRIOR = 50.0  # calls: what the layer's own averages weigh against those of a single unit


class Blend(IndependentSamples):
    """Straight-through and score function, blended by what is learned online of both: the paper's Sec. 3.2.2, done properly.

    >>> import torch, dither
    >>> _ = torch.manual_seed(0)
    >>> node, logits = dither.Bernoulli(), torch.tensor([[0.0, 1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    >>> blend = dither.Blend(node)
    >>> for _ in range(100):
    ...     _ = blend(lambda: (node(logits).sum(1) - 1.5).square())
    >>> {name: round(weight, 1) for name, weight in blend.report()[0]["weights"].items()}
    {'unbiased': 0.2, 'biased': 0.8}
    >>> blend.unbiased, dither.Blend(node, kind="control-variate").unbiased
    (False, True)

    With u the unbiased estimate (score function, leave-one-out), s the biased one of little variance (straight-through, with
    the sigmoid' factor), both per unit and from the same runs, and G the gradient:

    kind="prediction" (biased)
    Estimates   G by a linear function of its inputs, w . (u, s, ...), with the weights that minimise E (w . v - G)^2 per unit.
    Formula     w . v, v = (u, s, ...)                                                                   (1; Sec. 3.2.2)
                w = E[v v']^-1 E[v] G over previous calls, v the batch means of the inputs                           (2)
                G is never seen; E[v] G is the mean product of the inputs of one run and the unbiased estimate of
                *another*. So the noise of the target, which a regression on the same run's estimate would fit, has no
                part in the weights.
    inputs      of "unbiased", "biased" (the default: both), "logit" (s (1 - 2 sigmoid(a)), its change with the logit),
                "layer" (the mean of s over the layer) and "constant". Without "unbiased" it is the paper's: a function of the
                biased estimate and auxiliary inputs that predicts the unbiased one.

    shrink      by default the weights of u and s sum to one; True lets them be free, which lowers the MSE further by making
                the estimate shorter where it is uncertain: as if the learning rate were lowered there.

    kind="control-variate" (unbiased)
    Formula     (L - b - c T) d log P / d a + c s' dm / da                                                           (3)
                T = s' (h - m), summed over the layer; with local credit over the units that share a term with it    (4)
                c = E[u v] / E[v^2] over previous calls, with v = T d log P / d a - s' dm / da                       (5)
                s' is the mean of d L / d h in the *other* runs, by straight-through, m the mean of the node, and c has
                minimum variance per unit. The expectation of what is taken off is added back, so it is unbiased for
                every c and s'.

    Requires    samples >= 2 evaluations of the closure and one backward pass; Bernoulli and Categorical nodes. Where the cost
                is not differentiable in the outputs, s is 0 and u alone is left.
    report()    what it has learned: weights, and the bias, variance and MSE of it and of both parents.
    decay       of the moving averages, per call. They move while gradients are accumulated too (`moves_in_windows`): unbiased,
                but another gradient than one call of the whole batch has.
    Reference   Bengio 2013, Sec. 3.2.2; for the control variate Gu et al. 2016 and Titsias & Shi 2022.
    """

    reference = "Bengio 2013, Sec. 3.2.2"
    local_credit = True
    moves_in_windows = True  # products of batch means, which micro-batches cannot pool
    former_order = ("kind", "samples")

    def __init__(
        self,
        model: nn.Module,
        *,
        kind: Literal["prediction", "control-variate"] = "prediction",
        samples: int = 2,
        inputs: tuple[str, ...] = ("unbiased", "biased"),
        shrink: bool = False,
        decay: float = 0.995,
        warmup: int = 20,
        credit: Credits = "traced",
        vectorize: Vectorize = "auto",
    ) -> None:
        if samples == 1:
            raise ValueError(f"samples is {samples}: Blend compares independent runs, give at least 2")
        super().__init__(model, samples=samples, vectorize=vectorize)
        self.credit = credit
        if kind not in ("prediction", "control-variate"):
            raise ValueError(
                f"kind is {kind!r}: it must be 'prediction' or 'control-variate'"
                + did_you_mean(kind, ("prediction", "control-variate"))
            )
        if not inputs or len(set(inputs)) < len(inputs) or not set(inputs) <= set(INPUTS):
            raise ValueError(f"inputs is {inputs!r}: give one or more of {', '.join(INPUTS)}, each once")
        if not 0 < decay < 1:
            raise ValueError(f"decay is {decay}: it must lie between 0 and 1; 0.99 averages over about 100 calls")
        self.kind, self.inputs, self.warmup = kind, tuple(inputs), warmup
        self.affine = {"unbiased", "biased"} <= set(inputs) and not shrink
        self.moments = Moments(decay, tuple(name for name, node in self.nodes.items() if node.discrete))

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        return self.kind == "control-variate"

    @classmethod
    def fewest_samples(cls, words: Collection[str] = ()) -> int:
        return 2

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {
            "Blend-prediction": partial(cls, warmup=0),
            "Blend-shrunk": partial(cls, warmup=0, shrink=True),
            "Blend-all-inputs": partial(cls, warmup=0, inputs=INPUTS),
            "Blend-control-variate": partial(cls, kind="control-variate", warmup=0),
            "Blend-control-variate-3": partial(cls, kind="control-variate", samples=3, warmup=0),
        }

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        credit = site.credit(costs)
        score = site.score
        assert score is not None
        # u: (L - b) d log P / d a
        unbiased = over_logits(credit - others(credit), score) * score
        unbiased = site.where_present(unbiased)
        estimate = self._predicted if self.kind == "prediction" else self._controlled
        return site.along_logits(estimate(site, credit, score, unbiased) / self.samples)

    # --- prediction ---------------------------------------------------------------------------------------------------
    def _predicted(self, site: Site, credit: Tensor, score: Tensor, unbiased: Tensor) -> Tensor:
        inputs = self._inputs(site, unbiased)
        known = self._moments(site.name)
        if self.learning:
            self.moments.learn(site.name, self._products(inputs, unbiased))
        if known is None:
            return unbiased
        weights = weights_of(*known, self._basis())  # (2)
        return torch.einsum("kb...f,...f->kb...", inputs, weights.to(inputs))  # (1)

    def _inputs(self, site: Site, unbiased: Tensor) -> Tensor:
        """(K, batch, *logits, F)."""
        s = straight_through(site)
        assert site.score is not None
        p = site.sample - site.score
        every = {
            "unbiased": unbiased,
            "biased": s,
            "logit": s * (1 - 2 * p),
            "layer": flat_units(s).mean(-1).view(*s.shape[:2], *[1] * (s.dim() - 2)).expand_as(s),
            "constant": torch.ones_like(s) * unbiased.abs().mean(),
        }
        return torch.stack([every[name] for name in self.inputs], -1).detach()

    def _products(self, inputs: Tensor, unbiased: Tensor) -> dict[str, Tensor]:
        """Products of batch means, per unit: v v' of the mean over runs, (units, F, F), and z z' across two runs, z = (v, u),
        whose expectation is E[z] E[z]', (units, F + 1, F + 1). inputs: (K, batch, *units, F).

        u_k = (L_k - mean of the other costs) score_k is not independent of run j, but as E[score_k] = 0 given run j,
        E[u_k v_j] = G E[v_j] all the same, and E[u_k u_j] = G^2 (1 + 1 / (K - 1)^2), of one example; that factor is taken off.
        """
        z = torch.cat((inputs, unbiased.unsqueeze(-1)), -1)
        mean = mean_over_examples(inputs)
        across = pairs(z.sum(1) / max(z.shape[1], 1))
        square = (unbiased.sum(0).square() - unbiased.square().sum(0)) / (self.samples * (self.samples - 1))
        excess = square.sum(0) / max(len(square), 1) ** 2 / (1 + (self.samples - 1) ** 2)
        both = torch.tensor([name == "unbiased" for name in (*self.inputs, "unbiased")], dtype=mean.dtype, device=mean.device)
        return {"second": outer(mean), "across": across - excess[..., None, None] * outer(both)}

    def _basis(self) -> tuple[Tensor, Tensor]:
        """What weights may be: `start` + any combination of the rows of `free`. Weights of u and s that sum to one are neither
        longer nor shorter than the gradient; free ones shrink it by as much as it is uncertain."""
        free, start = (
            torch.eye(len(self.inputs), dtype=torch.float32, device="cpu"),
            torch.zeros(len(self.inputs), dtype=torch.float32, device="cpu"),
        )
        if self.affine:
            u, b = self.inputs.index("unbiased"), self.inputs.index("biased")
            start[u], free[b, u] = 1.0, -1.0
            free = free[[i for i in range(len(self.inputs)) if i != u]]
        return start, free

    def _moments(self, name: str) -> tuple[Tensor, Tensor] | None:
        """E[v v'] and E[z] E[z]' per unit, drawn towards the layer's by what a single unit's few calls are worth."""
        averages = self.moments.known(name, self.warmup)
        if averages is None or "across" not in averages:
            return None
        calls = averages["calls"]
        joint = []
        for key in ("second", "across"):
            own = averages[key]
            trust = (calls / (calls + _PRIOR)).to(own)
            joint.append(trust * own + (1 - trust) * own.reshape(-1, *own.shape[-2:]).mean(0))
        second, across = joint
        # What Cauchy and Schwarz demand of true moments, and noisy averages may lack: E[z_i]^2 <= E[v_i^2], |E[z_i z_j]| <= ...
        power = torch.cat((second.diagonal(dim1=-2, dim2=-1), across[..., -1:, -1]), -1)
        square = torch.minimum(across.diagonal(dim1=-2, dim2=-1), power).clamp(min=0)
        bound = (square.unsqueeze(-1) * square.unsqueeze(-2)).sqrt()
        return second, torch.minimum(torch.maximum(across, -bound), bound)

    # --- control variate ----------------------------------------------------------------------------------------------
    def _controlled(self, site: Site, credit: Tensor, score: Tensor, unbiased: Tensor) -> Tensor:
        assert site.sample_gradient is not None
        gradient = others(site.sample_gradient)
        parts = site.where_present(gradient * (site.output - site.per_run(site.node.mean, site.logits.detach())))
        parts = parts.sum(-1) if parts.dim() > 2 + len(site.units) else parts
        taken = _of_shared_terms(site, flat_units(parts))  # (4)
        taken = taken - others(taken)  # its own leave-one-out, of mean 0 given this run
        control = site.where_present(over_logits(taken, score) * score - straight_through(site, gradient))
        known = self.moments.averages.get(site.name, {}).get("control")
        if self.learning:
            u, v = mean_over_examples(unbiased), mean_over_examples(control)
            self.moments.learn(site.name, {"control": torch.stack((u * v, v * v, u * u))})
        averages = self.moments.known(site.name, self.warmup)
        if known is None or averages is None:
            return unbiased
        layer = known.unsqueeze(-1).flatten(1).mean(1).view(3, *[1] * (known.dim() - 1))
        calls = averages["calls"]
        both = known * calls / (calls + _PRIOR) + layer * (_PRIOR / (calls + _PRIOR))
        # (5), then (3)
        c = both[0] / torch.where(both[1] > 0, both[1], torch.ones_like(both[1]))
        return unbiased - c.to(control) * control

    def report(self) -> list[dict[str, Any]]:
        """What has been learned, a row per node. Errors are of batch-mean gradients of the logits, summed over units.

        kind="prediction": {"node", "weights" (mean over units, by input), "bias2", "variance", "mse", "unbiased_mse",
        "biased_mse"}. kind="control-variate": {"node", "coefficient", "remaining"}, the share of the unbiased parent's second
        moment that is left. Empty before `warmup` calls.
        """
        names = list(self.moments.averages)
        if self.kind == "prediction":
            return [
                {"node": n, **quality(self.inputs, *known, self._basis())}
                for n in names
                if (known := self._moments(n)) is not None
            ]
        rows = []
        for name in (n for n in names if self.moments.known(n, self.warmup) is not None):
            cross, own, parent = self.moments.averages[name]["control"].unsqueeze(-1).flatten(1).sum(1).tolist()
            rows.append({"node": name, "coefficient": cross / (own or 1), "remaining": 1 - cross**2 / (own * parent or 1)})
        return rows


def straight_through(site: Site, gradient: Tensor | None = None) -> Tensor:
    """The straight-through gradient of the logits: the Jacobian product of the node's mean with d cost / d output."""
    gradient = site.sample_gradient if gradient is None else gradient
    assert gradient is not None
    return site.mean_vjp(gradient)


def _of_shared_terms(site: Site, parts: Tensor) -> Tensor:
    """Their sum over the layer, (K, batch); with local credit, for each unit over those that share a term with it."""
    if site.influence is None:
        return parts.sum(-1)
    terms = site.influence.to(parts.dtype)
    return (parts @ (terms @ terms.T > 0).to(parts.dtype)).view(*parts.shape[:2], *site.units)
