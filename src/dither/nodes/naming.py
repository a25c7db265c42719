"""What a model's nodes are called, whatever the model is wrapped in."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dither.nodes.node import Node

# Of torch.compile, activation checkpointing and FSDP. DistributedDataParallel calls what it wraps "module", as others may.
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


def as_module(model: nn.Module | Sequence[nn.Module]) -> nn.Module:
    """The model itself, or one module of several; what is neither is returned as it is."""
    several = isinstance(model, (list, tuple)) and len(model) > 0 and all(isinstance(part, nn.Module) for part in model)
    return nn.ModuleList(model) if several else model  # type: ignore[return-value]


def named_nodes(model: nn.Module) -> dict[str, Node]:
    """The nodes of a model by module name; what wrappers put into it is left out, wherever in the model they are, so that
    state saved from a wrapped model loads into a plain one. A node reached by two names has the first."""
    nodes: dict[str, Node] = {}
    parallel = [name for name, module in model.named_modules() if isinstance(module, nn.parallel.DistributedDataParallel)]
    for name, module in model.named_modules():
        if isinstance(module, Node):
            for wrapper in reversed(parallel):  # the innermost first
                prefix = f"{wrapper}." if wrapper else ""
                if name.startswith(f"{prefix}module."):
                    name = prefix + name.removeprefix(f"{prefix}module.")
            module._name = plain_name(name) or "node"
            nodes[module._name] = module
    return nodes


def plain_name(name: str) -> str:
    """A node's name without what wrappers (compile, checkpointing, FSDP) put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
