"""What estimators with control variates share: the mean of the others, and the scale of a control variate, learned online."""

from __future__ import annotations

import torch
from torch import Tensor

from dither.estimators.core.baselines import mean_over_ranks
from dither.estimators.core.shapes import flat_units, mean_over_examples
from dither.estimators.core.site import Site


def others(values: Tensor) -> Tensor:
    """For each sample, the first dimension, the mean of the other samples."""
    return (values.sum(0, keepdim=True) - values) / (len(values) - 1)


def require_pairs(name: str, samples: int) -> None:
    if samples < 2:
        raise ValueError(
            f"samples={samples}: {name} needs samples >= 2, because a sample's control variate comes from the others; use "
            "REBAR or ScoreFunction(baseline='optimal') for one sample"
        )


class Scales:
    """A scale per node for its control variate: of all constants c the one that minimises E|g0 + c g1|^2,
    c = -E<g0, g1> / E|g1|^2, from moving averages over *previous* calls, so that it does not bias the gradient.

    g1 has mean zero, so the minimum of the squared norm is that of the variance. Before the first call c is `start`.
    """

    def __init__(self, decay: float, start: float = 1.0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}: the moving average needs 0 <= decay < 1, such as 0.99")
        self.decay, self.start = decay, start
        self.averages: dict[str, Tensor] = {}

    def of(self, site: Site) -> Tensor | float:
        if site.name not in self.averages:
            return self.start
        product, square = self.averages[site.name].unbind()
        return torch.where(square > 0, -product / torch.where(square > 0, square, 1), self.start)

    @torch.no_grad()
    def learn(self, site: Site, g0: Tensor, g1: Tensor) -> None:
        """Move the averages of a node towards this call's <g0, g1> and |g1|^2, (K, batch, ...) means over K and batch."""
        new = torch.stack([mean_over_examples(flat_units(g).sum(-1)) for g in (g0 * g1, g1.square())])
        new = mean_over_ranks(new)
        old = self.averages.get(site.name)
        self.averages[site.name] = torch.lerp(new, torch.zeros_like(new) if old is None else old.to(new), self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"scale.{name}": tensor for name, tensor in self.averages.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        wrong = [f"{n} {tuple(t.shape)}" for n, t in state.items() if not n.startswith("scale.") or t.shape != (2,)]
        if wrong:
            raise ValueError(f"a scale's state is one tensor 'scale.NODE' of shape (2,) per node, got {', '.join(wrong)}")
        self.averages = {name.removeprefix("scale."): tensor.clone() for name, tensor in state.items()}
