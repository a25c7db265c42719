"""What estimators with control variates share: the mean of the others, and the scale of a control variate, learned online."""

from __future__ import annotations

import torch
from torch import Tensor

from dither.estimators.core.baselines.node_state import Entries
from dither.estimators.core.baselines.windows import MovingAverages, Window
from dither.estimators.core.shapes import flat_units, mean_over_examples
from dither.estimators.core.site import Site

_SHAPES = {"scale": (2,), "window": (2,), "before": (2,), "rows": ()}


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

    def __init__(self, decay: float, start: float = 1.0, nodes: tuple[str, ...] = ()) -> None:
        super().__init__(decay)
        self.start, self.nodes = start, nodes

    def of(self, site: Site) -> Tensor | float:
        averages = self.known(site)
        if averages is None:
            return self.start
        product, square = averages.to(site.logits.device).unbind()
        return torch.where(square > 0, -product / torch.where(square > 0, square, 1), self.start)

    @torch.no_grad()
    def learn(self, site: Site, g0: Tensor, g1: Tensor) -> None:
        """Move the averages of a node towards this call's <g0, g1> and |g1|^2, (K, batch, ...) means over K and batch."""
        new = torch.stack([mean_over_examples(flat_units(g).sum(-1)) for g in (g0 * g1, g1.square())])
        self.move(site.name, new, g0.shape[1], site)

    # --- state --------------------------------------------------------------------------------------------------------
    def entries(self) -> Entries:
        """scale.NODE per node; of a window that the optimizer has not closed also window., before. and rows.NODE."""
        entries = {name: {"scale": tensor} for name, tensor in self.averages.items()}
        for name, window in self.pending().items():
            entries[name] |= {"window": window.mean, "rows": torch.tensor(window.rows, dtype=torch.float64, device="cpu")}
            entries[name] |= {} if window.before is None else {"before": window.before}
        return entries

    def nothing(self) -> dict[str, Tensor]:
        return {"scale": torch.zeros(2, dtype=torch.float32, device="cpu")}

    def key(self, node: str, part: str) -> str:
        return f"{part}.{node}"

    def parsed(self, key: str) -> tuple[str, str]:
        part, _, node = key.partition(".")
        return (node, part) if part in _SHAPES else ("", part)

    def restore(self, entries: Entries) -> None:
        for name, parts in entries.items():
            whole = parts.keys() in ({"scale"}, {"scale", "window", "rows"}, set(_SHAPES))
            if not whole or any(tensor.shape != _SHAPES[part] for part, tensor in parts.items()):
                got = ", ".join(f"{self.key(name, part)} {tuple(tensor.shape)}" for part, tensor in sorted(parts.items()))
                raise ValueError(f"a scale's state is one tensor 'scale.NODE' of shape (2,) per node, got {got}")
        self.load(
            {name: parts["scale"] for name, parts in entries.items()},
            {n: Window(p.get("before"), p["window"], float(p["rows"])) for n, p in entries.items() if "window" in p},
        )
