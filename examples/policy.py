"""A policy that catches balls: hard hidden units, a hard action, and a reward only when the ball is down.

A ball falls through a court of seven columns, and gusts of wind move it. In each step the player moves left, right or not at
all. Neither court nor action can be differentiated. `dither.Episodes` credits every decision with the reward that follows it:
the hidden units too, by score, or the action alone (`nodes=["action"]`), and then hidden units are straight-through below it.
Look at `return`: the share of balls caught minus the share missed.
"""

from functools import partial

import torch
from torch import Tensor, nn

import dither

HEIGHT, COLUMNS = 7, 7
ESTIMATORS = {
    "straight-through": partial(dither.Episodes, discount=1.0, baseline="leave-one-out", nodes=["action"]),
    "leave-one-out": partial(dither.Episodes, discount=1.0, baseline="leave-one-out"),
    "optimal": partial(dither.Episodes, discount=1.0, baseline="optimal"),
}


class Court:
    """Games side by side, each at the same height."""

    def __init__(self, games: int) -> None:
        self.ball, self.player = torch.randint(COLUMNS, (2, games)).float()
        self.height = HEIGHT

    def seen(self) -> Tensor:
        """(games, 3): columns from the middle, height."""
        height = torch.full_like(self.ball, self.height / HEIGHT)
        return torch.stack((self.ball - 3, self.player - 3, height), 1)

    def step(self, action: Tensor) -> Tensor:
        """The rewards of actions (games, 3), one-hot: left, stay, right."""
        self.player = (self.player + action.argmax(1) - 1).clamp(0, COLUMNS - 1)
        self.height -= 1
        reward = torch.where(self.ball == self.player, 1.0, -1.0) * (self.height == 0)
        self.ball = (self.ball + torch.randint(-1, 2, self.ball.shape)).clamp(0, COLUMNS - 1)
        return reward


def build(node=dither.Bernoulli, hidden=32) -> nn.Module:
    net = nn.Sequential()
    net.add_module("hidden", nn.Sequential(nn.Linear(3, hidden), node()))
    net.add_module("out", nn.Linear(hidden, 3))
    net.add_module("action", dither.Categorical())
    return net


def train(make=ESTIMATORS["leave-one-out"], *, node=dither.Bernoulli, steps=600, seed=0, lr=0.03):
    torch.manual_seed(seed)
    policy = build(node)
    episodes = make(policy)  # the only line that changes between estimators
    optimizer = torch.optim.Adam(policy.parameters(), lr=lr)
    for _ in range(steps):
        court = Court(games=1024)
        while court.height:
            with episodes.acting():
                action = policy(court.seen())
            reward = court.step(action)
            episodes.reward(reward, done=torch.full(reward.shape, court.height == 0))
        optimizer.zero_grad()
        episodes.loss().backward()
        optimizer.step()
    court = Court(games=2000)
    with torch.no_grad():
        while court.height:
            reward = court.step(policy(court.seen()))
    return {"return": reward.mean().item()}


if __name__ == "__main__":
    print(train())
