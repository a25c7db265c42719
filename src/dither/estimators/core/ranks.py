"""What data-parallel ranks have in common: averages, seeds, and the parameters of a learned baseline or control."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def world() -> int:
    """The number of data-parallel ranks: 1 where torch.distributed is not initialised."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of the ranks' values, the same on all of them: each keeps the baseline of the whole batch."""
    if world() == 1:
        return values
    values = values.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(values)
    return values / world()


def seed_of_first_rank(seed: Tensor, device: torch.device) -> Tensor:
    """Rank 0's seed on all ranks. device: where the ranks exchange tensors, that of the model."""
    if world() == 1:
        return seed
    shared = seed.to(device, copy=True)
    torch.distributed.broadcast(shared, 0)
    return shared.to(seed.device)


@torch.no_grad()
def broadcast_module(module: nn.Module) -> None:
    """Rank 0's parameters and buffers on all ranks, as DistributedDataParallel does for the model that it wraps."""
    for tensor in (*module.parameters(), *module.buffers()):
        whole = tensor.contiguous()
        torch.distributed.broadcast(whole, 0)
        tensor.copy_(whole)


class _Averaged(torch.autograd.Function):
    """The parameter itself, whose gradient is averaged over the ranks. Not a hook: a copy of the module would lose that."""

    @staticmethod
    def forward(parameter: Tensor) -> Tensor:
        return parameter.view_as(parameter)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return mean_over_ranks(grad)


def call_averaged(module: nn.Module, *inputs: Tensor) -> Tensor:
    """module(*inputs). With several ranks the gradient of its parameters is averaged over them in the backward pass, so
    that equal modules stay equal: in every backward pass, whatever is accumulated, also by torch.autograd.grad."""
    if world() == 1:
        return module(*inputs)
    named: dict[str, Tensor] = {n: _Averaged.apply(p) if p.requires_grad else p for n, p in module.named_parameters()}
    return torch.func.functional_call(module, named, inputs)
