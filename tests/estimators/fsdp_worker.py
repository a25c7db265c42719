"""What one rank does in test_integration_fsdp: sharded training, and the weights that it leads to."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard

import dither

BATCH, STEPS = 8, 4
ESTIMATORS = {
    "straight-through": dither.StraightThrough,
    "mean": lambda net: dither.ScoreFunction(net, baseline="mean", decay=0.5),
    "optimal": lambda net: dither.ScoreFunction(net, baseline="optimal", decay=0.5),
    "leave-one-out": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3),
    "leave-one-out, loop": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3, vectorize=False),
    "disarm": dither.DisARM,
}


def train(name: str, rank: int, world: int) -> list[np.ndarray]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), dither.Bernoulli(), nn.Linear(6, 5), dither.Bernoulli(), nn.Linear(5, 3)).double()
    if world > 1:
        for layer in net:
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
        fully_shard(net)
    estimator = ESTIMATORS[name](net)
    optimizer = torch.optim.SGD(net.parameters(), 0.3)
    x, y = torch.randn(STEPS, BATCH, 4, dtype=torch.float64), torch.randint(3, (STEPS, BATCH))
    rows = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    for step in range(STEPS):
        torch.manual_seed(dither.noise.step_seed(0, step))
        optimizer.zero_grad()
        estimator(lambda step=step: F.cross_entropy(net(x[step, rows]), y[step, rows], reduction="none")).backward()
        optimizer.step()
    whole = (p.full_tensor() if world > 1 else p for p in net.parameters())
    return [p.detach().numpy().copy() for p in whole]


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), world)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world, store=store)
    weights = {f"{name}|{i}": w for name in ESTIMATORS for i, w in enumerate(train(name, rank, world))}
    np.savez(folder / f"rank{rank}.npz", **weights)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    os._exit(0)  # gloo's threads may ask for the interpreter while it ends, and abort the process (pytorch#179291)
