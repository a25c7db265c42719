from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dither.estimators.control_variates.relaxation import Relaxed, Relaxing
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize
from dither.estimators.core.ranks import broadcast_module, call_averaged, world
from dither.estimators.core.shapes import flat_units
from dither.estimators.core.site import Site, over_logits


class RELAX(Relaxing):
    """RELAX: REBAR whose control variate has a learned part besides the cost of relaxed units.

    >>> import torch, dither
    >>> node, logits = dither.Bernoulli(), torch.tensor([[0.0, 1.0]], requires_grad=True)
    >>> relax, gradients = dither.RELAX(node), []
    >>> for estimator in (relax, dither.REBAR(node)):  # before it has learned, it is REBAR with eta = 1
    ...     _ = torch.manual_seed(0)
    ...     gradients += torch.autograd.grad(estimator(lambda: (node(logits) - 0.4).square().sum(1)), logits)
    >>> torch.equal(*gradients), len(list(relax.parameters()))  # those of the learned part, for your optimizer
    (True, 4)

    Estimates   d E[L] / d a for every logit; unbiased at any depth, whatever the learned part is.
    Formula     (L(b) - c(z~)) d log P(b) / d a + d c(z) / d a - d c(z~) / d a                          (1; Algorithm 1)
                c(z) = L(soft(z)) + r(soft(z))                                                                       (2)
                z, z~, soft and the runs of a net with several layers as in `REBAR`; r is a net of the relaxed outputs
                of one node.
    Learning    the returned loss carries d |gradient|^2 / d phi, the single-sample gradient of the variance, onto r's
                parameters phi, and onto nothing else. Give estimator.parameters() to an optimizer; without one the estimator
                is REBAR with eta = 1. The update follows the call, so it does not bias the gradient.
    control     None: a small net for each node, units -> hidden -> 1, whose first layer takes its size at the first call and
                whose last is zero at first. A module: maps flat outputs (batch, units) to (batch,) or (batch, 1), without
                mixing examples. A ModuleDict: one for each node, under its name with "." written as "_".
    Differs     r sees the relaxed outputs, not z; the temperature is not learned.
    temperature T, fixed, as in `REBAR`.
    Requires    samples x (1 + 2 layers) evaluations of the closure and a backward pass; a cost that is differentiable in the
                units' outputs. Bernoulli and Categorical nodes. Terms of a cost are summed.
    Raises      TypeError for other discrete nodes; ValueError for a control of another output shape or without a node's name.
    Reference   Grathwohl, Choi, Wu, Roeder, Duvenaud 2018, "Backpropagation through the void", Sec. 3.1-3.2 and Algorithm 1.
    """

    reference = "Grathwohl et al. 2018, Algorithm 1"
    former_order = ("control", "temperature", "samples")

    def __init__(
        self,
        model: nn.Module,
        *,
        control: nn.Module | None = None,
        temperature: float = 0.5,
        samples: int = 1,
        hidden: int = 100,
        vectorize: Vectorize = "auto",
    ) -> None:
        super().__init__(model, temperature=temperature, samples=samples, vectorize=vectorize)
        with torch.random.fork_rng(devices=[]):  # building it may not change the user's draws
            self.control = self._nets(hidden) if control is None else control
        self._shared: set[str] = set()  # the nodes of whose nets the parameters are rank 0's

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {cls.__name__: partial(cls, hidden=2)}

    def _nets(self, hidden: int) -> nn.ModuleDict:
        # ambient: the nets of a model without parameters are built as layers are, by torch's defaults
        like = next((p for p in self.model.parameters() if p.is_floating_point()), torch.zeros(()))
        of = {"dtype": like.dtype, "device": like.device}
        nets = {}
        for name, node in self.nodes.items():
            if node.discrete:
                last = nn.Linear(hidden, 1, **of)
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
                nets[name.replace(".", "_")] = nn.Sequential(nn.LazyLinear(hidden, **of), nn.SiLU(), last)
        return nn.ModuleDict(nets)

    def _net(self, site: Site) -> nn.Module:
        key = site.name.partition(":")[0].replace(".", "_")
        if not isinstance(self.control, nn.ModuleDict):
            return self.control
        if key not in self.control:
            raise ValueError(f"control has no module for node '{key}': its keys are {', '.join(self.control)}")
        return self.control[key]

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        if (plain := self.plain(site, costs)) is not None:
            return plain
        parts = self.parts(site, costs)
        estimate = parts.reinforce + parts.control + self._learned(site, parts)  # (1), grouped by the two terms of (2)
        surrogate = site.along_logits(estimate / self.samples, self.role(site.logits, 0))
        if not estimate.requires_grad:
            return surrogate
        return surrogate + estimate.square().sum() / max(estimate.shape[:2].numel(), 1)

    def _learned(self, site: Site, parts: Relaxed) -> Tensor:
        """r's share of the gradient, a function of its parameters alone."""
        net = self._net(site)
        like = next(net.parameters(), parts.logits)

        def r(outputs: Tensor) -> Tensor:
            flat = flat_units(outputs).flatten(0, 1).to(like.dtype)
            value = call_averaged(net, flat)
            if value.numel() != len(flat):
                raise ValueError(
                    f"control gave shape {tuple(value.shape)} for {len(flat)} examples of node '{site.name}': one value per "
                    "example, (batch,) or (batch, 1), is needed"
                )
            return value.to(outputs.dtype).reshape(outputs.shape[:2])

        if any(isinstance(p, nn.UninitializedParameter) for p in net.parameters()):
            with torch.random.fork_rng(devices=[]):  # whether it was called before may not change the user's draws
                r(torch.zeros_like(parts.logits))
        if world() > 1 and site.name not in self._shared:
            broadcast_module(net)
            self._shared.add(site.name)
        along_free = torch.func.vjp(lambda a: r(parts.free(a)), parts.logits)[1]
        tied, along_tied = torch.func.vjp(lambda a: r(parts.tied(a)), parts.logits)[:2]
        ones = torch.ones_like(tied)
        # d r(z) / d a - d r(z~) / d a - r(z~) d log P(b) / d a: (1) is linear in c
        return along_free(ones)[0] - along_tied(ones)[0] - over_logits(tied, parts.logits) * parts.score
