"""A mixture of experts that reads digits: each token goes to one of eight experts, and nobody says to which.

A picture is eight tokens, its rows of eight pixels. A router samples one expert for each, and an expert, which has hard hidden
units of its own, sees no other tokens than those sent to it: `dither.rows` says whose they are. A token costs an eighth of the
layer. Look at `accuracy`, at `load` (entropy of the experts' shares of tokens: 1 if even, 0 if one has all) and at `sure` (the
router's probability of its first choice). The router's logits leave the closure beside the cost, for the balance loss.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dither

ESTIMATORS = {  # by runs of a loop: in one vmap all samples would send equally many tokens to an expert
    "straight-through": partial(dither.StraightThrough, vectorize=False),
    "leave-one-out": partial(dither.ScoreFunction, baseline="leave-one-out", samples=4, vectorize=False),
    "mean": partial(dither.ScoreFunction, baseline="mean", vectorize=False),
}


class Experts(nn.Module):
    def __init__(self, node, width=64, count=8):
        super().__init__()
        self.embed, self.position = nn.Linear(8, width), nn.Parameter(torch.randn(8, width) / 4)
        self.router, self.gate = nn.Linear(width, count), dither.Categorical()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(width, 64), node(), nn.Linear(64, width)) for _ in range(count))
        self.out = nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (batch, 64) -> (class logits, the router's logits (batch * 8, experts))."""
        tokens = torch.tanh(self.embed(x.unflatten(1, (8, 8))) + self.position).flatten(0, 1)
        with dither.rows(torch.arange(len(x)).repeat_interleave(8)):  # the picture of each token
            logits = self.router(tokens)
            choice, mixed = self.gate(logits), torch.zeros_like(tokens)
            for number, expert in enumerate(self.experts):
                index = choice[:, number].nonzero().flatten()
                with dither.rows(index):  # within the other: numbers of tokens
                    mixed = mixed.index_add(0, index, choice[index, number, None] * expert(tokens[index]))
        return self.out(mixed.view(len(x), -1)), logits


def build(node=dither.Bernoulli) -> nn.Module:
    return Experts(node)


def train(make=ESTIMATORS["leave-one-out"], *, node=dither.Bernoulli, steps=500, seed=0, lr=3e-3, price=0.1, part="test"):
    torch.manual_seed(seed)
    data, net = dither.data.digits(), build(node)
    estimator = make(net)  # the only line that changes between estimators
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(steps):
        index = torch.randint(len(data.train), (256,))
        x, y = data.train.x[index], data.train.y[index]

        def closure(x=x, y=y):
            guess, logits = net(x)
            return F.cross_entropy(guess, y, reduction="none"), logits

        loss, logits = estimator(closure, has_aux=True, detach=False)
        share = logits.softmax(-1).flatten(0, -2).mean(0)  # of tokens, by expert
        optimizer.zero_grad()
        (loss + price * len(share) * share.square().sum()).backward()
        optimizer.step()
    held_out = getattr(data, part)
    with torch.no_grad():
        guess, logits = net(held_out.x)
    p = logits.softmax(-1)
    load = -torch.special.xlogy(p.mean(0), p.mean(0)).sum() / math.log(p.shape[1])
    accuracy = (guess.argmax(1) == held_out.y).float().mean()
    return {"accuracy": accuracy.item(), "load": load.item(), "sure": p.amax(1).mean().item()}


if __name__ == "__main__":
    print(train())
