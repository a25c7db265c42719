"""A convolutional net whose feature maps are bits, trained as large nets are: compiled, in bfloat16, and to be interrupted.

Two convolutions of a digit end in binary units, so that between layers there are bits and nothing else. Its parts are compiled,
they compute in bfloat16 (noise is compared in float32), and a step accumulates gradients over two half batches. Every 100 steps
all that it takes to go on is saved: the next start goes on there and ends with the same weights to the last bit, because each
step has its seed from `noise.step_seed`. No state of a generator is kept, and no pickle is read. Look at `accuracy`.
"""

import io
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import dither
from dither import files, noise

leave_one_out = partial(dither.ScoreFunction, baseline="leave-one-out", samples=4, vectorize=False)
ESTIMATORS = {  # a compiled part cannot be run in a vmap
    "straight-through": partial(dither.StraightThrough, vectorize=False),
    "leave-one-out": leave_one_out,
    "disarm": partial(dither.DisARM, vectorize=False),
}


def build(node=dither.Bernoulli, backend="aot_eager"):
    first = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.GroupNorm(1, 16))
    second = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GroupNorm(1, 32))
    for norm in first[1], second[1]:
        nn.init.constant_(norm.weight, 3.0)  # logits far from 0, so that bits say something from the start
    first, second = torch.compile(first, backend=backend), torch.compile(second, backend=backend)
    return nn.Sequential(first, node(), second, node(), nn.Flatten(), nn.Linear(32 * 4, 10))


def train(
    make=leave_one_out, *, node=dither.Bernoulli, steps=1000, seed=0, lr=3e-3, part="test",
    backend="aot_eager", checkpoint=None, every=100,
):  # fmt: skip
    torch.manual_seed(seed)
    digits = dither.data.digits()
    held_out = getattr(digits, part)
    net = build(node, backend)
    estimator = make(net)  # the only line that changes between estimators
    optimizer = torch.optim.Adam(net.parameters(), lr)
    state, begin = {"net": net, "estimator": estimator, "optimizer": optimizer}, 0
    if checkpoint and Path(checkpoint).exists():
        saved = torch.load(checkpoint, weights_only=True)
        begin = saved["step"]
        for name, own in state.items():
            own.load_state_dict(saved[name])

    def cost(x, y):
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(net(x.view(-1, 1, 8, 8)), y, reduction="none")

    for step in range(begin, steps):
        torch.manual_seed(noise.step_seed(seed, step))
        for index in torch.randint(len(digits.train), (2, 64)):
            (estimator(partial(cost, digits.train.x[index], digits.train.y[index])) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
        if checkpoint and (step + 1) % every == 0:
            data = io.BytesIO()
            torch.save({"step": step + 1, **{name: own.state_dict() for name, own in state.items()}}, data)
            files.write_atomic(checkpoint, data.getvalue())
    torch.manual_seed(noise.step_seed(seed, steps))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = net(held_out.x.view(-1, 1, 8, 8)).float()
    accuracy = (out.argmax(1) == held_out.y).float().mean()
    return {"accuracy": accuracy.item(), "loss": F.cross_entropy(out, held_out.y).item()}


if __name__ == "__main__":
    print(train(checkpoint="binary_conv.pt"))
