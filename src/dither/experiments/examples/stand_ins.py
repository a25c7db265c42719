"""What a program takes from dither, in plain torch: as little as does the same by straight-through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

import dither
from dither.experiments.examples.turns import Tick


class StandIn:
    """`dither`, with other nodes and with `rows` that say nothing."""

    def __init__(self, nodes: Mapping[Any, type[nn.Module]]) -> None:
        self.__dict__.update({node.__name__: plain for node, plain in nodes.items()})

    def rows(self, index: Tensor) -> nullcontext[None]:
        return nullcontext()

    def __getattr__(self, name: str) -> Any:
        return getattr(dither, name)


class Plain:
    """In place of an estimator: the mean cost of one run, back-propagated. In place of `Episodes` without discount: the score
    of the action, the one node with a `log_prob`, by the mean return of the other environments, which end together."""

    def __init__(self, net: nn.Module, tick: Tick) -> None:
        self.net, self.tick = net, tick
        self.log_probs: list[Tensor] = []
        self.rewards: list[Tensor] = []

    def __call__(self, closure: Callable[[], Any], *, has_aux: bool = False, detach: bool = True) -> Any:
        self.tick()
        returned = closure()
        cost, aux = returned if has_aux else (returned, None)
        loss = cost.sum() / len(cost)
        return (loss, aux) if has_aux else loss

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass

    def acting(self) -> nullcontext[None]:
        return nullcontext()

    def reward(self, reward: Tensor, done: Tensor) -> None:
        action: Any
        (action,) = [module for module in self.net.modules() if hasattr(module, "log_prob")]
        self.log_probs.append(action.log_prob())
        self.rewards.append(reward)

    def loss(self) -> Tensor:
        self.tick()
        ahead = torch.stack(self.rewards).flip(0).cumsum(0).flip(0)  # (steps, envs)
        others = (ahead.sum(1, keepdim=True) - ahead) / (ahead.shape[1] - 1)
        loss = -((ahead - others) * torch.stack(self.log_probs)).sum(0).mean()
        self.log_probs, self.rewards = [], []
        return loss
