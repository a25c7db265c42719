"""A decision process of two states and two actions, small enough to sum over, and the exact value of a policy in it."""

from __future__ import annotations

from itertools import pairwise, product

import torch
from torch import Tensor, nn

from dither import Bernoulli, Categorical, Episodes

F64 = torch.float64
REWARD = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=F64)  # of (state, action)


def move(state: int, action: int) -> tuple[int, bool]:
    """The next state, and whether the episode ends: it does by the second action in state 1."""
    return state ^ action ^ 1, state == 1 and action == 1


def policy(seed: int, *hidden: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in pairwise((2, *hidden, 2)):
        layers += [nn.Linear(a, b).double(), Bernoulli()]
    layers[-1] = Categorical()
    model = nn.Sequential(*layers)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=F64)
    return model


def observe(states: list[int]) -> Tensor:
    return torch.eye(2, dtype=F64)[states]


def flat(model: nn.Module, loss: Tensor) -> Tensor:
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


# --- the oracle ---------------------------------------------------------------------------------------------------------
def probabilities(model: nn.Sequential) -> Tensor:
    """P(action | state), (2, 2), hidden units summed out; differentiable."""

    def layer(index: int, h: Tensor, p: Tensor) -> Tensor:
        a = model[index](h)
        if index == len(model) - 2:
            return p.unsqueeze(1) * torch.softmax(a, 1)
        total = torch.zeros(2, 2, dtype=F64)
        for bits in product((0.0, 1.0), repeat=a.shape[1]):
            b = torch.tensor(bits, dtype=F64)
            total = total + layer(index + 2, b.expand_as(a), p * torch.sigmoid((2 * b - 1) * a).prod(1))
        return total

    return layer(0, torch.eye(2, dtype=F64), torch.ones(2, dtype=F64))


def value(p: Tensor, state: int, horizon: int, discount: float, beyond: float = 0.0) -> Tensor:
    """The expected discounted return from a state, by the Bellman recursion."""
    if not horizon:
        return torch.tensor(beyond, dtype=F64)
    total = torch.zeros((), dtype=F64)
    for action in (0, 1):
        following, done = move(state, action)
        later = 0.0 if done else value(p, following, horizon - 1, discount, beyond)
        total = total + p[state, action] * (REWARD[state, action] + discount * later)
    return total


class Forced:
    """Noise by which the units take given outcomes, one after the other; the probability of those outcomes is multiplied up."""

    def __init__(self, digits: tuple[int, ...]) -> None:
        self.digits, self.at, self.probability = digits, 0, 1.0

    def __call__(self, node, logits: Tensor, *_) -> Tensor:
        noise, log_weight = (t.detach() for t in node.partition(logits))
        picked = noise[0].clone()
        for index in product(*map(range, log_weight.shape[1:])):
            digit = self.digits[self.at] if self.at < len(self.digits) else 0
            picked[index] = noise[(digit, *index)]
            self.probability *= float(log_weight[(digit, *index)].exp())
            self.at += 1
        return picked


def play(model: nn.Module, episodes: Episodes, starts: list[int], horizon: int) -> None:
    states = list(starts)
    for _ in range(horizon):
        with episodes.acting():
            action = model(observe(states)).argmax(1).tolist()
        reward = [float(REWARD[s, a]) for s, a in zip(states, action, strict=True)]
        moved = [move(s, a) for s, a in zip(states, action, strict=True)]
        episodes.reward(reward, [done for _, done in moved])
        states = [s for s, _ in moved]
