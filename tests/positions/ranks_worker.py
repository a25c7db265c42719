"""What one of two data-parallel ranks does in test_ranks: it trains, and tells how far apart the two end."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import dither

F64 = torch.float64
ESTIMATORS = {
    "SPSA": dither.SPSA,
    "SPSA, normal, K=4": lambda net: dither.SPSA(net, scale=0.1, samples=4, distribution="normal"),
    "SPSA, replayed": lambda net: dither.SPSA(net, exact_restore=False),
    "FiniteDifference": dither.FiniteDifference,
    "NodePerturbation": dither.NodePerturbation,
    "mean": lambda net: dither.ScoreFunction(net, baseline="mean"),
    "optimal": lambda net: dither.ScoreFunction(net, baseline="optimal"),
    "learned": lambda net: dither.ScoreFunction(
        net, baseline=nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    ),
    "learned, K=2, loop": lambda net: dither.ScoreFunction(net, baseline=nn.Linear(3, 1).double(), samples=2, vectorize=False),
    "NVIL": dither.NVIL,
    "NVIL, per node": lambda net: dither.NVIL(
        net, baseline=nn.ModuleDict({"1": nn.Linear(3, 1), "3": nn.Linear(3, 3)}).double()
    ),
    "REBAR": dither.REBAR,
}
ALONE = ("SPSA", "SPSA, normal, K=4", "SPSA, replayed", "FiniteDifference")  # need no wrapper around the model
WINDOWS = {"1": 1, "2, no_sync": 2}
CASES = [
    (name, window, wrapped) for name in ESTIMATORS for window in WINDOWS for wrapped in (True, False)[: 1 + (name in ALONE)]
]


def difference(name: str, window: str, wrapped: bool, rank: int) -> float:
    """The largest between the ranks' parameters, of model and estimator, after two steps; -1 where nothing was learned."""
    torch.manual_seed(0)
    net: nn.Module = nn.Sequential(nn.Linear(2, 3), dither.Bernoulli(), nn.Linear(3, 3), dither.Bernoulli(), nn.Linear(3, 2))
    net = net.double()
    model = nn.parallel.DistributedDataParallel(net) if wrapped else net
    torch.manual_seed(10 + rank)  # the baselines, the data and the noise are the rank's own
    estimator = ESTIMATORS[name](model)
    batch = 3 + rank  # uneven
    x, y = torch.randn(batch, 2, dtype=F64), torch.randint(2, (batch,))
    optimizer = torch.optim.SGD([*model.parameters(), *estimator.parameters()], 0.1)
    before = [p.detach().clone() for p in estimator.parameters() if not isinstance(p, nn.UninitializedParameter)]
    before += [p.detach().clone() for p in net.parameters()]
    for _ in range(2):
        optimizer.zero_grad()
        for micro in range(WINDOWS[window]):
            local = wrapped and "no_sync" in window and micro < WINDOWS[window] - 1
            with model.no_sync() if local else nullcontext():
                estimator(lambda: F.cross_entropy(model(x), y, reduction="none")).backward()
        optimizer.step()
    ends = [*estimator.parameters(), *net.parameters()]
    if len(before) == len(ends) and all(torch.equal(a, b) for a, b in zip(before, ends, strict=True)):
        return -1.0
    worst = 0.0
    for tensor in (*ends, *estimator.state_dict().values()):
        both = [torch.zeros_like(tensor) for _ in range(2)]
        torch.distributed.all_gather(both, tensor.detach().contiguous())
        worst = max(worst, float((both[0] - both[1]).abs().max()))
    return worst


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2, store=store)
    results = {case: difference(*case, rank) for case in CASES}
    with torch.no_grad():  # a rank may evaluate by itself
        net = nn.Sequential(dither.Bernoulli(), nn.Linear(1, 1))
        if rank == 0:
            dither.SPSA(net)(lambda: net(torch.zeros(2, 1)).sum(1))
    torch.distributed.barrier()
    (folder / f"rank{rank}.txt").write_text("\n".join(str(value) for value in results.values()))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # gloo's threads may ask for the interpreter while it ends, and abort the process (pytorch#179291)
