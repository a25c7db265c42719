"""A causal Transformer whose tokens skip layers.

The text is pairs of a key and a value. A key keeps its value within a sequence, so a value that was there before can be looked
up; all else is chance. A hard gate decides for each token and layer whether it goes through the layer or past it, and going
through has a price. The cost is a sum over tokens, (batch, terms); a token's gates change its own term and later ones, as
`credit="causal"` says. Look at `cost`, of a token: its bits, of which chance alone has 1.72, and the price of its layers."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import dither

leave_one_out = partial(dither.ScoreFunction, baseline="leave-one-out", samples=4, credit="causal")
ESTIMATORS = {"straight-through": dither.StraightThrough, "leave-one-out": leave_one_out}
ESTIMATORS["disarm"] = partial(dither.DisARM, credit="causal")
KINDS, PAIRS = 6, 16  # of keys and of values; in a sequence
LATER = torch.ones(2 * PAIRS, 2 * PAIRS).triu(1).bool()


class Layer(nn.Module):
    def __init__(self, node, width, attends):
        super().__init__()
        self.attends, self.norm, self.logits, self.gate = attends, nn.LayerNorm(width), nn.Linear(width, 1), node()
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width if attends else 3 * width, width)

    def forward(self, x):
        gate, inner = self.gate(self.logits(self.norm(x))), self.inward(self.norm(x))
        if self.attends:
            q, k, v = inner.chunk(3, -1)
            inner = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(LATER, -math.inf).softmax(-1) @ v
        return x + gate * self.outward(F.gelu(inner)), gate.squeeze(-1)


class Transformer(nn.Module):
    def __init__(self, node, width, blocks):
        super().__init__()
        self.embedding, self.position = nn.Embedding(2 * KINDS, width), nn.Parameter(torch.zeros(2 * PAIRS, width))
        self.layers = nn.ModuleList(Layer(node, width, attends) for attends in blocks * (True, False))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * KINDS))

    def forward(self, tokens):
        """(bits of each token's successor, share of the layers that it went through), both (batch, time)."""
        x, used = self.embedding(tokens) + self.position, 0
        for layer in self.layers:
            x, gate = layer(x)
            used = used + gate / len(self.layers)
        bits = F.cross_entropy(self.out(x)[:, :-1].mT, tokens[:, 1:], reduction="none") / math.log(2)
        return F.pad(bits, (0, 1)), used


def build(node=dither.Bernoulli, width=32, blocks=2):
    return Transformer(node, width, blocks)


def pairs(count):
    value_of, keys = torch.randint(KINDS, (count, KINDS)), torch.randint(KINDS, (count, PAIRS))
    return torch.stack([keys, KINDS + value_of.gather(1, keys)], -1).flatten(1)


def train(make=leave_one_out, *, node=dither.Bernoulli, steps=1000, seed=0, lr=3e-3, price=0.1):
    torch.manual_seed(seed)
    net = build(node)
    estimator = make(net)  # the only line that changes between estimators
    optimizer = torch.optim.Adam(net.parameters(), lr)
    for _ in range(steps):
        tokens = pairs(64)
        optimizer.zero_grad()
        estimator(lambda: torch.add(*net(tokens), alpha=price)).backward()
        optimizer.step()
    bits, used = (float(figure[:, :-1].detach().mean()) for figure in net(pairs(1000)))
    return {"cost": bits + price * used, "bits_per_token": bits, "skipped": 1 - used}


if __name__ == "__main__":
    print(train())
