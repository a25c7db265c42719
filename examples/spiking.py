"""A spiking net that reads digits in 16 time steps: all that its neurons say to each other is whether they fire.

A pixel fires in each step with a probability that is its ink. A neuron leaks: its potential is nine tenths of what it was plus
what comes in, and it fires at random, the more likely the higher the potential, which then starts anew from zero. The class is
read from a leaking sum of spikes. The cost is that of the class and a price for each spike. Look at `accuracy` and at `spikes`,
the number of them in the hidden layer for one digit. One closure calls the same node 16 times.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dither

leave_one_out = partial(dither.ScoreFunction, baseline="leave-one-out", samples=4)
ESTIMATORS = {
    "straight-through": dither.StraightThrough,
    "leave-one-out": leave_one_out,
    "disarm": dither.DisARM,
}


class Spiking(nn.Module):
    def __init__(self, node, hidden, leak):
        super().__init__()
        self.encode, self.fire, self.read, self.leak = nn.Linear(64, hidden), node(), nn.Linear(hidden, 10), leak

    def forward(self, spikes: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels' spikes (batch, time, 64) -> (class logits (batch, 10), spikes of a hidden neuron (batch, hidden))."""
        current = self.encode(spikes)
        potential, count, out = torch.zeros_like(current[:, 0]), 0.0, 0.0
        for time in range(spikes.shape[1]):
            potential = self.leak * potential + current[:, time]
            spike = self.fire(potential - 2)
            potential = potential * (1 - spike)
            count, out = count + spike, self.leak * out + self.read(spike)
        return out, count


def build(node=dither.Bernoulli, hidden=128, leak=0.9):
    return Spiking(node, hidden, leak)


def train(make=leave_one_out, *, node=dither.Bernoulli, steps=600, seed=0, lr=5e-3, price=1e-3, part="test"):
    torch.manual_seed(seed)
    digits = dither.data.digits()
    held_out = getattr(digits, part)
    net = build(node)
    estimator = make(net)  # the only line that changes between estimators
    optimizer = torch.optim.Adam(net.parameters(), lr)

    def rate_coded(x: Tensor, time: int = 16) -> Tensor:
        return torch.bernoulli(x.unsqueeze(1).expand(-1, time, -1))

    for _ in range(steps):
        index = torch.randint(len(digits.train), (128,))
        spikes, y = rate_coded(digits.train.x[index]), digits.train.y[index]

        def cost(spikes=spikes, y=y):
            out, count = net(spikes)
            return F.cross_entropy(out, y, reduction="none") + price * count.sum(1)

        optimizer.zero_grad()
        estimator(cost).backward()
        optimizer.step()
    with torch.no_grad():
        out, count = net(rate_coded(held_out.x))
    accuracy = (out.argmax(1) == held_out.y).float().mean()
    return {"accuracy": accuracy.item(), "spikes": count.sum(1).mean().item()}


if __name__ == "__main__":
    print(train())
