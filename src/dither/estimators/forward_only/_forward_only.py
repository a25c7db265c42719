from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dither.estimators.core.baselines.baseline import Baseline, LeaveOneOut, Zero
from dither.estimators.core.baselines.moving import RunningMean, per_logit
from dither.estimators.core.baselines.named import BaselineName
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.shapes import batch_mean
from dither.estimators.core.site import Site
from dither.estimators.forward_only.packed_run import Keep, PackedRun, own_forward, present_run
from dither.estimators.forward_only.packed_site import PackedSite, broadcast
from dither.estimators.score._score_function import ScoreFunction
from dither.functional import attach
from dither.nodes import in_region


class ForwardOnly(ScoreFunction):
    """The score function's gradient for feed-forward stochastic nets, with samples as bits and nothing sent backward.

    >>> import torch, dither
    >>> from dither.models.mlp import StochasticMLP
    >>> net, x, gradients = StochasticMLP((8, 20, 20, 1)).double(), torch.randn(4, 8, dtype=torch.float64), []
    >>> for estimator in (dither.ForwardOnly(net, keep="bits"), dither.ScoreFunction(net)):
    ...     _ = torch.manual_seed(0)  # the same samples
    ...     gradients += torch.autograd.grad(estimator(lambda: net(x).square().sum(1)), net.linears[0].weight)
    >>> torch.allclose(*gradients)
    True

    Estimates   what ScoreFunction estimates, from the same noise: d E[L] / d theta; unbiased. "The unbiased estimator only
                requires broadcasting L, no back-propagation and only local computation" (Bengio 2013, Sec. 3.1).
    Formula     d / d W = (L - b) (h' - sigmoid(a)) h^T of a layer a = W h + c, mean over K samples and the batch    (1)
    How         a `torch.nn.Linear` behind a `Bernoulli` works on packed bits, 1/32 of the bytes and a quarter of the additions;
                where it also stands before one, that layer keeps the bits of its input and output and no graph. Other segments
                (convolutions, several layers, what leads to the cost) keep their own local graph, as under ScoreFunction.
    Memory      batch x units / 8 bytes for a stochastic layer, and with keep="logits" batch x units x 4 more.
    keep        "logits" for speed; "bits" computes them a second time when the gradient is taken.
    Requires    samples evaluations of the closure; any cost. Linear layers are recognised when they are called as modules of
                the model, on what a node gave them, without hooks that look at their input's values. Code that `torch.compile`
                made keeps its own products, in an ordinary graph; so do the runs of a closure that leads to other nodes in
                each of several runs (`vectorize=False`).
    baseline, samples, decay, split_sums, vectorize, Raises: as for ScoreFunction.
    Reference   Bengio 2013, Theorem 1, Sec. 3.1.
    """

    reference = "Bengio 2013, Theorem 1 and Sec. 3.1"
    run_type = PackedRun
    keeps_graph = False
    former_order = ("baseline", "samples")

    def __init__(
        self,
        model: nn.Module,
        *,
        baseline: BaselineName | nn.Module | Baseline | None = None,
        samples: int = 1,
        keep: Keep = "logits",
        decay: float = 0.99,
        split_sums: bool = False,
        vectorize: Vectorize = "auto",
    ) -> None:
        super().__init__(model, baseline=baseline, samples=samples, decay=decay, split_sums=split_sums, vectorize=vectorize)
        if keep not in ("logits", "bits"):
            raise ValueError(f"keep is {keep!r}: it must be 'logits' (faster) or 'bits' (less memory)")
        self.keep = keep
        # The same objects for good, so that compiled models are not compiled again.
        self.linears = {m: partial(self._linear, m) for m in self.model.modules() if type(m) is nn.Linear}

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        kinds: tuple[tuple[BaselineName | None, int, Keep], ...] = (
            (None, 1, "bits"),
            ("mean", 2, "logits"),
            ("optimal", 1, "bits"),
            ("optimal", 2, "logits"),
            ("leave-one-out", 2, "bits"),
            ("leave-one-out", 3, "logits"),
        )
        return {f"{cls.__name__}-{b}-{k}-{keep}": partial(cls, baseline=b, samples=k, keep=keep) for b, k, keep in kinds}

    def _linear(self, linear: nn.Linear, x: Tensor) -> Tensor:
        # What is compiled, or will be computed again at backward by a module that is no longer taken over, stays as it is.
        if torch.compiler.is_compiling():
            return nn.Linear.forward(linear, x)
        run = present_run(linear)
        return own_forward(linear)(x) if run is None or in_region() else run.linear(linear, x)

    # --- the gradient -------------------------------------------------------------------------------------------------
    def assemble(self, costs: Tensor, sites: list[Site]) -> Tensor:
        # (1): `broadcast` sends L - b, divided by K batch, to a layer, which has its bits h' and h, and its logits
        shared = self._shared_advantage(costs.detach(), sites)
        if shared is None:
            parts = [part for site in sites if (part := self.part(site, costs.detach())) is not None]
        else:
            parts = [broadcast(site, shared) for site in sites if isinstance(site, PackedSite)]
        loss = batch_mean(self.value(costs))
        return attach(loss, torch.stack(parts).sum().to(loss.dtype)) if parts else loss

    def _shared_advantage(self, costs: Tensor, sites: list[Site]) -> Tensor | None:
        """(L - b) / (K batch), (K batch, 1), where it is the same for all sites: then it is computed once."""
        one_for_all = isinstance(self.baseline, Zero | LeaveOneOut | RunningMean)
        if not sites or not one_for_all or any(s.local or s.rows is not None or not isinstance(s, PackedSite) for s in sites):
            return None
        first, averages = sites[0], getattr(self.baseline, "averages", {})
        if any(len(s.shape) != len(first.shape) or averages.get(s.name) is not averages.get(first.name) for s in sites):
            return None
        credit = first.credit(costs)
        value = self.baseline.value(first, credit)
        advantage = (credit - value) / max(credit.numel(), 1)
        if advantage.shape != credit.shape:  # a baseline per unit, of calls whose credit was local
            return None
        if self.learning and torch.is_grad_enabled():
            self.baseline.update(first, credit, value)
            if isinstance(self.baseline, RunningMean):
                self.baseline.averages.update(dict.fromkeys((s.name for s in sites), self.baseline.averages[first.name]))
        return advantage.view(-1, 1)

    def _surrogate(self, site: Site, credit: Tensor, baseline: Tensor | float) -> Tensor:
        if not isinstance(site, PackedSite):
            return super()._surrogate(site, credit, baseline)
        if isinstance(baseline, Tensor) and baseline.dim() != len(site.shape) - 2:
            baseline = per_logit(baseline, site)
        advantage = (credit - baseline) / max(credit.shape[:2].numel(), 1)
        if advantage.shape[2:].numel() > 1:  # a baseline that some dimensions share
            advantage = advantage.expand(*advantage.shape[:2], *site.shape[2:])
        return broadcast(site, advantage.flatten(0, 1).flatten(1))
