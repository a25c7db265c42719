"""What one data-parallel rank does in test_integration_distributed, or one process alone."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import dither

BATCH, STEPS = 8, 4
ESTIMATORS = {
    "straight-through": dither.StraightThrough,
    "score": dither.ScoreFunction,
    "score-mean": lambda net: dither.ScoreFunction(net, baseline="mean", decay=0.5),
    "score-optimal": lambda net: dither.ScoreFunction(net, baseline="optimal", decay=0.5),
    "score-leave-one-out": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3),
    "score-optimal, K=3, loop": lambda net: dither.ScoreFunction(
        net, baseline="optimal", samples=3, decay=0.5, vectorize=False
    ),
    "learned baseline": lambda net: dither.ScoreFunction(net, baseline=_modules()),
    "learned baseline, lazy": dither.NVIL,
    "node perturbation": dither.NodePerturbation,
    "SPSA": dither.SPSA,
    "SPSA, normal, K=4": lambda net: dither.SPSA(net, scale=0.1, samples=4, distribution="normal"),
    "finite difference": dither.FiniteDifference,
    "rows": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=2),
}


def _modules() -> nn.ModuleDict:
    """Other ones on every rank, until the first rank's are taken."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    with torch.random.fork_rng():
        torch.manual_seed(rank)
        return nn.ModuleDict({"1": nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1)), "3": nn.Linear(4, 1)}).double()


def cost(net: nn.Module, x: torch.Tensor, y: torch.Tensor, rows: bool) -> torch.Tensor:
    """Of each example, or of two rows of each."""
    if not rows:
        return F.cross_entropy(net(x), y, reduction="none")
    index = torch.arange(len(x)).repeat_interleave(2)
    with dither.rows(index, batch=len(x)):
        return F.cross_entropy(net(x[index]), y[index], reduction="none").unflatten(0, (-1, 2)).sum(1)


def train(name: str, rank: int, world: int) -> dict[str, np.ndarray]:
    """Gradients and estimator state of every step."""
    torch.manual_seed(0)
    net: nn.Module = nn.Sequential(
        nn.Linear(4, 5), dither.Bernoulli(), nn.Linear(5, 4), dither.Categorical(), nn.Linear(4, 3)
    ).double()
    if world > 1:
        net = nn.parallel.DistributedDataParallel(net)
    estimator = ESTIMATORS[name](net)
    optimizer = torch.optim.SGD([*net.parameters(), *estimator.parameters()], 0.3)
    x, y = torch.randn(STEPS, BATCH, 4, dtype=torch.float64), torch.randint(3, (STEPS, BATCH))
    rows = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    results = {}
    for step in range(STEPS):
        torch.manual_seed(dither.noise.step_seed(0, step))
        optimizer.zero_grad()
        estimator(lambda step=step: cost(net, x[step, rows], y[step, rows], name == "rows")).backward()
        for i, p in enumerate([*net.parameters(), *estimator.parameters()]):
            results[f"{name}/{step}/gradient {i}"] = p.grad.numpy().copy()
        for key, tensor in estimator.state_dict().items():
            results[f"{name}/{step}/{key}"] = tensor.numpy().copy()
        optimizer.step()
    return results


def lengths(rank: int) -> dict[str, np.ndarray]:
    """A baseline's state after calls whose units are of another number on each rank, (batch, steps, 2)."""
    torch.manual_seed(rank)
    node = dither.Bernoulli()
    node.weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
    estimator = dither.ScoreFunction(node, baseline="optimal", decay=0.5)
    for steps in (2 + rank, 3, 4 - rank):
        torch.autograd.grad(
            estimator(lambda n=steps: 1 + rank + node(node.weight.expand(4, n, 2)).sum((1, 2)).square()), node.weight
        )
    return {f"lengths/{key}": tensor.numpy().copy() for key, tensor in estimator.state_dict().items()}


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), world)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world, store=store)
    results = {}
    for name in ESTIMATORS:
        results |= train(name, rank, world)
    results |= lengths(rank)
    np.savez(folder / f"rank{rank}.npz", **{key.replace("/", "|"): value for key, value in results.items()})
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    os._exit(0)  # gloo's threads may ask for the interpreter while it ends, and abort the process (pytorch#179291)
