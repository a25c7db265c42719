"""What another process does in test_copies: it goes on with estimators that it was sent, and is one of two ranks whose wrapped
module holds its estimator."""

import os
import pickle
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import dither
from dither.models.mlp import StochasticMLP

F64 = torch.float64
X = torch.linspace(-2, 2, 8, dtype=F64).sin().view(4, 2)


# --- models, and a step -----------------------------------------------------------------------------------------------
def chain(dtype: torch.dtype = F64) -> nn.Module:
    torch.manual_seed(0)
    return StochasticMLP((2, 3, 2, 1)).to(dtype)


def one_code(dtype: torch.dtype = F64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), dither.Categorical(), nn.Linear(3, 1)).to(dtype)


def cost(net: nn.Module) -> Tensor:
    x = X.to(next(net.parameters()).dtype)
    return (net(x).squeeze(1) - 0.3).square() + x[:, 0]


def step(estimator: nn.Module, net: nn.Module, seed: int = 3) -> list[Tensor | None]:
    """The loss and all gradients of the next step."""
    torch.manual_seed(seed)
    loss = estimator(lambda: cost(net))
    parameters = [*net.parameters(), *estimator.parameters()]
    return [loss.detach(), *torch.autograd.grad(loss, parameters, allow_unused=True)]


# --- a module that holds its estimator --------------------------------------------------------------------------------
class Held(nn.Module):
    """A net and its estimator; what it returns is the loss."""

    def __init__(self, net: nn.Module, build) -> None:
        super().__init__()
        self.net, self.estimator = net, build(net)

    def forward(self, x: Tensor) -> Tensor:
        return self.estimator(lambda: (self.net(x).squeeze(1) - 0.3).square() + x[:, 0])


def own_baseline(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.ModuleDict({"nodes_0": nn.Linear(3, 1), "nodes_1": nn.Linear(2, 1)}).double()


# Each rank has other parameters of its own, until the first rank's are taken.
ESTIMATORS = {
    "learned baseline": lambda net, rank: dither.ScoreFunction(net, baseline=own_baseline(rank)),
    "RELAX": lambda net, rank: dither.RELAX(net, control=own_baseline(rank)),
    "RODEO": lambda net, rank: dither.RODEO(net),
    "PerNode": lambda net, rank: dither.PerNode(
        net,
        {
            "nodes.0": lambda net: dither.NVIL(net, baseline=own_baseline(rank)["nodes_0"]),
            "*": lambda net: dither.ScoreFunction(net, baseline="mean"),
        },
    ),
}


def train(name: str, rank: int, world: int) -> dict[str, Tensor]:
    """Gradients and state of three steps, on this rank's share of the batch."""
    net = chain()
    torch.manual_seed(rank)
    held: nn.Module = Held(net, lambda net: ESTIMATORS[name](net, rank))
    module = nn.parallel.DistributedDataParallel(held) if world > 1 else held
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    rows = slice(rank * len(X) // world, (rank + 1) * len(X) // world)
    results: dict[str, Tensor] = {}
    for number in range(3):
        torch.manual_seed(number)
        optimizer.zero_grad()
        module(X[rows]).backward()
        for key, p in held.named_parameters():
            results[f"{name}|{number}|{key}.grad"] = torch.zeros_like(p) if p.grad is None else p.grad.clone()
        optimizer.step()
        results |= {f"{name}|{number}|{key}": tensor.clone() for key, tensor in held.state_dict().items()}
    return results


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if rank == 0:
        sent = pickle.loads((folder / "sent").read_bytes())
        (folder / "steps").write_bytes(pickle.dumps({name: step(*pair) for name, pair in sent.items()}))
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2, store=store)
    results: dict[str, Tensor] = {}
    for name in ESTIMATORS:
        results |= train(name, rank, 2)
    torch.save(results, folder / f"rank{rank}")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # gloo's threads may ask for the interpreter while it ends, and abort the process (pytorch#179291)
