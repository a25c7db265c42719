"""What Blend has learned of a node: moving averages of products of its estimates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dither.estimators.core.baselines.node_state import Entries, NodeState
from dither.estimators.core.ranks import mean_over_ranks

KINDS = ("second", "across", "control", "calls")


class Moments(NodeState):
    """Averages over previous calls, of which the first few weigh alike, per node and kind. "calls" says of how many."""

    def __init__(self, decay: float, nodes: tuple[str, ...]) -> None:
        super().__init__()
        self.decay, self.nodes = decay, nodes
        self.averages: Entries = {}

    def known(self, node: str, least: float) -> dict[str, Tensor] | None:
        """Those of a node, if they are of `least` calls or more."""
        averages = self.averages.get(node)
        return averages if averages is not None and bool(averages["calls"].min() >= least) else None

    def learn(self, node: str, new: dict[str, Tensor]) -> None:
        """Move the averages of a node towards this call's."""
        if not torch.is_grad_enabled():
            return
        averages = self.averages.get(node, {})
        calls = averages.get("calls", torch.zeros((), dtype=torch.float64, device="cpu"))
        rate = torch.maximum(1 / (calls + 1), torch.tensor(1 - self.decay, dtype=torch.float64, device="cpu"))
        moved = {"calls": torch.minimum(calls + 1, torch.tensor(1 / (1 - self.decay), dtype=torch.float64, device="cpu"))}
        for kind, value in new.items():
            value = mean_over_ranks(value.detach())
            old = averages.get(kind, torch.zeros_like(value)).to(value)
            if old.shape != value.shape:
                raise ValueError(
                    f"node '{node}' has units of shape {tuple(value.shape)}, but Blend has learned {tuple(old.shape)}: it "
                    "needs the same units in every call; build another Blend for another shape"
                )
            moved[kind] = old + rate.to(value) * (value - old)
        self.averages[node] = moved

    # --- state --------------------------------------------------------------------------------------------------------
    def entries(self) -> Entries:
        return {node: dict(averages) for node, averages in self.averages.items()}

    def nothing(self) -> dict[str, Tensor]:
        return {"calls": torch.zeros((), dtype=torch.float64, device="cpu")}

    def restore(self, entries: Entries) -> None:
        for node, averages in entries.items():
            if "calls" not in averages or not averages.keys() <= set(KINDS):
                raise ValueError(
                    f"the state of a Blend holds {', '.join(KINDS)} per node, got {', '.join(averages)} of node '{node}'"
                )
        self.averages = {node: averages for node, averages in entries.items() if len(averages) > 1}

    def convert(self, f: Callable[[Tensor], Tensor]) -> None:
        counted = ("calls",)  # on the CPU, in double precision
        self.averages = {
            node: {kind: tensor if kind in counted else f(tensor) for kind, tensor in averages.items()}
            for node, averages in self.averages.items()
        }
