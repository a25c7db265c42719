"""How taint passes one operator: element by element where the operator is known to act so, and else to all of its output.

Known are pointwise operators, reductions, matrix products, concatenation. Nothing is ever concluded from values: a weight of
zero, a gradient of zero prove no independence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

_REDUCE = {"sum", "mean", "prod", "amax", "amin", "max", "min", "argmax", "argmin", "logsumexp", "any", "all", "var", "std"}
_ALONG = {"_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp", "sort", "flip"}
_SAME = {"clone", "_to_copy", "copy", "detach", "alias", "contiguous", "nan_to_num"}
_PRODUCT = {"mm", "bmm", "addmm", "baddbmm", "mv", "dot", "addmv"}
_SHAPED = {  # take the shape of their first argument, and no value of it
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like"),
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided"),
}
_RAW = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"}
_OVERWRITE = {
    *("copy_", "fill_", "zero_", "uniform_", "normal_", "random_", "exponential_", "cauchy_", "log_normal_", "geometric_"),
}


@dataclass
class Masks:
    """The taint of an operator's inputs: (tensor, mask (sources, *shape)) of those that have any. memory: addresses of all."""

    sources: int
    tainted: list[tuple[Tensor, Tensor]]
    memory: set[int]

    def of(self, tensor: Tensor) -> Tensor | None:
        return next((mask for t, mask in self.tainted if t is tensor), None)

    def without(self, tensors: list[Tensor]) -> Masks:
        """Of the other inputs. Copies, as those tensors may have been views of the same memory."""
        others = [(t, mask.clone()) for t, mask in self.tainted if not any(t is tensor for tensor in tensors)]
        return Masks(self.sources, others, self.memory)

    def everything(self, dims: int) -> Tensor:
        """What tainted any of it, for an output of so many dimensions."""
        return torch.stack([m.reshape(self.sources, -1).any(1) for _, m in self.tainted]).any(0).view(-1, *[1] * dims)


def shape_depends_on_values(func: Any, args: Any, masks: Masks) -> bool:
    """Whether the shape of the result depends on tainted values."""
    if torch.Tag.dynamic_output_shape not in func.tags and torch.Tag.data_dependent_output not in func.tags:
        return False
    if func._schema.name.startswith("aten::index") and len(args) > 1:  # by integers it does not
        places = [t for t in tree_leaves(args[1]) if isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8)]
        return any(masks.of(t) is not None for t in places)
    return True


def is_raw(func: Any) -> bool:
    """Whether the result's memory holds nothing yet: what is read of it before an operator has written it was put there out of
    sight, by a kernel that was given a pointer."""
    return func._schema.name.startswith("aten::") and _bare(func) in _RAW


def overwrites(func: Any, kwargs: Any) -> bool:
    """Whether nothing is left of what was in the arguments that it changes."""
    if not func._schema.name.startswith("aten::"):
        return False
    return _bare(func) in _OVERWRITE or any(a.is_out and a.name in kwargs for a in func._schema.arguments)


def _bare(func: Any) -> str:
    return func._schema.name.split("::")[-1]


def passed_on(func: Any, args: Any, kwargs: Any, output: Tensor, masks: Masks) -> Tensor:
    """The taint of one output, broadcastable to (sources, *output.shape)."""
    name = _bare(func).rstrip("_")
    first = args[0] if args else None
    if name in _SHAPED and len(masks.tainted) == 1 and masks.tainted[0][0] is first:
        return masks.everything(output.dim()) & False
    if torch.Tag.pointwise in func.tags or name in _SAME:
        return _pointwise(output, masks)
    if len(masks.tainted) == 1 and masks.tainted[0][0] is first and name in _REDUCE | _ALONG:
        return _along(name, func, args, kwargs, output, masks)
    if name in _PRODUCT:
        return _product(name, args, output, masks)
    if name in ("cat", "stack"):
        return _joined(name, args, kwargs, output, masks)
    return masks.everything(output.dim())


def _pointwise(output: Tensor, masks: Masks) -> Tensor:
    ndim = output.dim()
    total = torch.zeros(masks.sources, *[1] * ndim, dtype=torch.bool, device=output.device)
    for tensor, mask in masks.tainted:
        if tensor.dim() > ndim:
            return masks.everything(ndim)
        total = total | mask.reshape(masks.sources, *[1] * (ndim - tensor.dim()), *tensor.shape)
    return total


def _along(name: str, func: Any, args: Any, kwargs: Any, output: Tensor, masks: Masks) -> Tensor:
    """Of an operator along dimensions of its first argument."""
    ((tensor, mask),) = masks.tainted
    arguments = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    dims = arguments.get("dim")
    if dims is None or dims == []:
        return masks.everything(output.dim())
    dims = [dims] if isinstance(dims, int) else list(dims)
    axes = [d % tensor.dim() + 1 for d in dims]
    for axis in axes:
        mask = mask.any(axis, keepdim=True)
    if name in _REDUCE and not arguments.get("keepdim", False):
        for axis in sorted(axes, reverse=True):
            mask = mask.squeeze(axis)
    return mask if mask.dim() == output.dim() + 1 else masks.everything(output.dim())


def _product(name: str, args: Any, output: Tensor, masks: Masks) -> Tensor:
    """Row i of the left factor and column j of the right one go into element (i, j)."""
    added = name.startswith(("add", "badd"))
    left, right = (masks.of(t) for t in (args[1:3] if added else args[:2]))
    bias = masks.of(args[0]) if added else None
    if name in ("mv", "addmv"):
        return masks.everything(1) if left is None or right is not None or bias is not None else left.any(-1)
    if name == "dot":
        return masks.everything(0)
    total = torch.zeros(masks.sources, *output.shape, dtype=torch.bool, device=output.device)
    if left is not None:
        total = total | left.any(-1, keepdim=True)
    if right is not None:
        total = total | right.any(-2, keepdim=True)
    if bias is not None:
        total = total | bias.reshape(masks.sources, *[1] * (output.dim() - args[0].dim()), *args[0].shape)
    return total


def _joined(name: str, args: Any, kwargs: Any, output: Tensor, masks: Masks) -> Tensor:
    tensors = [t for t in args[0] if not (t.dim() == 1 and t.numel() == 0)]
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % output.dim()
    clean = [torch.zeros(masks.sources, *t.shape, dtype=torch.bool, device=t.device) for t in tensors]
    parts = [c if (m := masks.of(t)) is None else m for t, c in zip(tensors, clean, strict=True)]
    return torch.cat(parts, dim + 1) if name == "cat" else torch.stack(parts, dim + 1)
