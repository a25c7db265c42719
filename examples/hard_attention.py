"""Hard attention: two glimpses decide what a classifier sees of a scene.

A scene has 16 places: one holds a digit, the others a signpost each, a light patch whose position says where the digit is. The
net looks at one place, reads what is there, looks at a second place, and names the digit. A look is a hard choice among 16,
without a gradient, and only a good second look is ever rewarded. Look at `accuracy` on held-out digits (by chance: one in ten),
and at `attended`, the share of scenes in which the net has seen the digit (by two blind looks: one in eight).
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import dither

leave_one_out = partial(dither.ScoreFunction, baseline="leave-one-out", samples=4)
ESTIMATORS = {"straight-through": dither.StraightThrough, "leave-one-out": leave_one_out, "carms": dither.CARMS}
PLACES = 16


class Glimpses(nn.Module):
    def __init__(self, node, hidden):
        super().__init__()
        self.start = nn.Parameter(torch.zeros(PLACES))
        self.place = node()
        self.look = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.follow = nn.Linear(hidden, PLACES)
        self.name = nn.Linear(2 * hidden, 10)

    def forward(self, scene):
        """(logits of the digit (batch, 10), which places were looked at (batch, places))."""
        first = self.place(self.start.expand(len(scene), -1))
        view = self.look((first.unsqueeze(1) @ scene).squeeze(1))
        second = self.place(self.follow(view))
        second_view = self.look((second.unsqueeze(1) @ scene).squeeze(1))
        return self.name(torch.cat([view, second_view], -1)), first + second


def build(node=dither.Categorical, hidden=64):
    return Glimpses(node, hidden)


def scenes(digits, count):
    """Scenes (count, places, pixels), their digits and where these are."""
    chosen, at = torch.randint(len(digits.x), (count,)), torch.randint(PLACES, (count,))
    here = F.one_hot(at, PLACES)
    signpost = F.interpolate(here.view(-1, 1, 4, 4).float(), scale_factor=2).flatten(2)
    return torch.where(here.bool().unsqueeze(-1), digits.x[chosen].unsqueeze(1), signpost), digits.y[chosen], at


def train(make=leave_one_out, *, node=dither.Categorical, steps=800, seed=0, lr=2e-3, part="test"):
    torch.manual_seed(seed)
    digits = dither.data.digits()
    net = build(node)
    estimator = make(net)  # the only line that changes between estimators
    optimizer = torch.optim.Adam(net.parameters(), lr)
    for _ in range(steps):
        scene, label, _ = scenes(digits.train, 256)
        optimizer.zero_grad()
        estimator(lambda: F.cross_entropy(net(scene)[0], label, reduction="none")).backward()
        optimizer.step()
    with torch.no_grad():
        scene, label, at = scenes(getattr(digits, part), 3000)
        logits, looked = net(scene)
    met = looked.gather(1, at.unsqueeze(1)) > 0
    return {"accuracy": float((logits.argmax(-1) == label).float().mean()), "attended": float(met.float().mean())}


if __name__ == "__main__":
    print(train())
