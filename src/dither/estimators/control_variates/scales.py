"""What estimators with control variates share: the mean of the others, and the scale of a control variate, learned online."""

from __future__ import annotations

import torch
from torch import Tensor

from dither.estimators.core.shapes import flat_units, mean_over_examples
from dither.estimators.core.site import Site
from dither.estimators.core.windows import MovingAverages, Window


def others(values: Tensor) -> Tensor:
    """For each sample, the first dimension, the mean of the other samples."""
    return (values.sum(0, keepdim=True) - values) / (len(values) - 1)


def require_pairs(name: str, samples: int) -> None:
    if samples < 2:
        raise ValueError(
            f"samples={samples}: {name} needs samples >= 2, because a sample's control variate comes from the others; use "
            "REBAR or ScoreFunction(baseline='optimal') for one sample"
        )


class Scales(MovingAverages):
    """A scale per node for its control variate: of all constants c the one that minimises E|g0 + c g1|^2,
    c = -E<g0, g1> / E|g1|^2, from moving averages over *previous* calls, so that it does not bias the gradient.

    g1 has mean zero, so the minimum of the squared norm is that of the variance. Before the first call c is `start`. While
    gradients are accumulated the averages stand still: calls between two steps of the optimizer count together (`windows`).
    """

    def __init__(self, decay: float, start: float = 1.0) -> None:
        super().__init__(decay)
        self.start = start

    def of(self, site: Site) -> Tensor | float:
        averages = self.known(site)
        if averages is None:
            return self.start
        product, square = averages.unbind()
        return torch.where(square > 0, -product / torch.where(square > 0, square, 1), self.start)

    @torch.no_grad()
    def learn(self, site: Site, g0: Tensor, g1: Tensor) -> None:
        """Move the averages of a node towards this call's <g0, g1> and |g1|^2, (K, batch, ...) means over K and batch."""
        new = torch.stack([mean_over_examples(flat_units(g).sum(-1)) for g in (g0 * g1, g1.square())])
        self.move(site.name, new, g0.shape[1], site)

    def state_dict(self) -> dict[str, Tensor]:
        """scale.NODE per node; of a window that the optimizer has not closed also window., before. and rows.NODE."""
        state = {f"scale.{name}": tensor for name, tensor in self.averages.items()}
        for name, window in self.pending().items():
            state |= {
                f"window.{name}": window.mean,
                f"rows.{name}": torch.tensor(window.rows, dtype=torch.float64, device="cpu"),
            }
            state |= {} if window.before is None else {f"before.{name}": window.before}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"scale": {}, "window": {}, "before": {}, "rows": {}}
        wrong = []
        for key, tensor in state.items():
            kind, _, name = key.partition(".")
            if kind not in parts or not name or tensor.shape != (() if kind == "rows" else (2,)):
                wrong.append(f"{key} {tuple(tensor.shape)}")
            else:
                parts[kind][name] = tensor.clone()
        scales, means, before, rows = parts.values()
        wrong += [f"a window of {name} without its parts" for name in means.keys() ^ rows.keys() | before.keys() - rows.keys()]
        wrong += [f"a window of {name} without its scale" for name in rows.keys() - scales.keys()]
        if wrong:
            raise ValueError(f"a scale's state is one tensor 'scale.NODE' of shape (2,) per node, got {', '.join(wrong)}")
        self.load(scales, {name: Window(before.get(name), means[name], float(rows[name])) for name in rows})
