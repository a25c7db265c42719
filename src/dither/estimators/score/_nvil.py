from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dither.estimators.core.baselines.baseline import Baseline
from dither.estimators.core.baselines.learned import Learned
from dither.estimators.core.baselines.moving import RunningMean
from dither.estimators.core.credit import Credits
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.parts import covered_nodes
from dither.estimators.core.site import Site
from dither.estimators.score._score_function import ScoreFunction
from dither.nodes import as_module


class NVIL(ScoreFunction):
    """NVIL: the score function with a learned, input-dependent baseline and a running mean of what it leaves over.

    >>> import torch, dither
    >>> node = dither.Bernoulli()
    >>> node.logits = torch.nn.Parameter(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
    >>> cost = lambda: (100 * node.logits.detach() + node(node.logits)).sum(1)  # its scale differs by example
    >>> estimator = dither.NVIL(node)
    >>> optimizer = torch.optim.SGD(estimator.parameters(), lr=0.1)
    >>> for _ in range(50):
    ...     optimizer.zero_grad(); estimator(cost).backward(); optimizer.step()
    >>> variance = lambda estimator: dither.exact.moments(estimator, cost).variance["logits"].sum().item()
    >>> variance(estimator) < variance(dither.ScoreFunction(node)) / 1000
    True

    Estimates   d E[L] / d theta for every parameter, through every discrete node; unbiased.
    Formula     sum_i (L - C(a) - c) d log P(h_i) / d theta + d L / d theta                                (1; Sec. 2.3)
                c = moving average of L - C(a) over previous calls                                      (2; Algorithm 1)
                C is `baseline`, a module of the node's logits, which are a function of the observation (and, further
                up, of the layer below, as in the paper). It is trained by (L - C(a) - c)^2, through the returned loss.
    Left out    the paper's division of the signal by its running standard deviation: it makes the gradient's expectation
                another one, in scale, at every step. Adam does the like to what it is given.
    Local cost  as ScoreFunction: the paper's layer-specific learning signals, where the closure returns (batch, terms).
    baseline    maps logits (batch, *units) to (batch,), (batch, 1) or one value per unit; or an nn.ModuleDict, one for each
                node, under its name with "." written as "_"; None: a linear map for each node. Give
                estimator.parameters() to the optimizer.
    decay       of the moving average, per call; the paper's 0.8 by default.
    Requires    samples evaluations of the closure; any cost, differentiable or not.
    Raises      as ScoreFunction; TypeError if baseline is not a module.
    Reference   Mnih, Gregor 2014, "Neural variational inference and learning in belief networks", Sec. 2.3 and Algorithm 1.
    """

    reference = "Mnih, Gregor 2014, Sec. 2.3"
    former_order = ("baseline", "samples")

    def __init__(
        self,
        model: nn.Module,
        *,
        baseline: nn.Module | None = None,
        samples: int = 1,
        decay: float = 0.8,
        credit: Credits = "traced",
        vectorize: Vectorize = "auto",
        repeated: bool = False,
    ) -> None:
        baseline = _linear_per_node(as_module(model)) if baseline is None else baseline
        if not isinstance(baseline, nn.Module) or isinstance(baseline, Baseline):
            raise TypeError(
                f"baseline is {type(baseline).__name__}: NVIL learns a torch.nn.Module of the node's logits, such as "
                "nn.Linear(units, 1); for a running mean alone use ScoreFunction(net, baseline='mean')"
            )
        super().__init__(
            model,
            baseline=_Centred(baseline, decay),
            samples=samples,
            decay=decay,
            credit=credit,
            vectorize=vectorize,
            repeated=repeated,
        )

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {f"{cls.__name__}-{k}": partial(cls, baseline=_Constant(), samples=k) for k in (1, 2)}


class _Centred(Learned):
    """A learned baseline, and on top of it the running mean of what it leaves over."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__(module)
        self.mean = RunningMean(decay)

    def value(self, site: Site, credit: Tensor) -> Tensor:
        return super().value(site, credit) + self.mean.value(site, credit)  # C(a) + c of (1)

    @torch.no_grad()
    def update(self, site: Site, credit: Tensor, value: Tensor | float) -> None:
        learned = value - self.mean.value(site, credit)  # C(a)
        self.mean.update(site, credit - learned)  # (2), after it was used


class _Constant(nn.Module):
    """The baseline module of the conformance suite: 0 for any logits until it is trained, so that nothing but c is of the
    cost's scale."""

    def __init__(self) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.zeros((), dtype=torch.float64, device="cpu"))

    def forward(self, logits: Tensor) -> Tensor:
        return self.constant.expand(len(logits))


class _Linear(nn.Module):
    """A linear map of a node's logits, (batch, ...) of any dtype, to one value; the first call gives it its size."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(1, dtype=dtype, device=device)

    def forward(self, logits: Tensor) -> Tensor:
        return self.linear(logits.reshape(len(logits), logits.shape[1:].numel()).to(self.linear.weight.dtype))


def _linear_per_node(model: nn.Module) -> nn.ModuleDict:
    # ambient: the nets of a model without parameters are built as layers are, by torch's defaults
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    discrete = [name for name, node in covered_nodes(model).items() if node.discrete]
    return nn.ModuleDict({name.replace(".", "_"): _Linear(like.dtype, like.device) for name in discrete})
