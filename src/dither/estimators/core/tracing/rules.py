"""How taint passes one operator: element by element where the operator is known to act so, and else to all of its output.

Here stand pointwise operators, reductions, matrix products, concatenation and what rearranges; layers, losses, indexing and
attention stand in `layers`. Nothing is ever concluded from values: a weight of zero, a gradient of zero prove no
independence. The one exception is what a mask has set to -inf before a softmax (`fixed`).

A mask is (sources, *sizes), each size that of the tensor or 1 where it is the same along a dimension; on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

_SHAPED = {  # take the shape of their first argument, and no value of it
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like"),
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided"),
}
_RAW = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"}
_OVERWRITE = {
    *("copy_", "fill_", "zero_", "uniform_", "normal_", "random_", "exponential_", "cauchy_", "log_normal_", "geometric_"),
    "bernoulli_",
}
_TURNS = {"transpose_", "t_", "squeeze_", "unsqueeze_", "swapaxes_", "swapdims_", "detach_"}


@dataclass
class Masks:
    """The taint of an operator's inputs: (tensor, mask) of those that have any. memory: addresses of all. fixed: of those
    tensors of which elements are known, (2, *sizes): -inf, and zero. consult(tensor) must be called before a conclusion from
    the values of an untainted one; it tells whether there may be any."""

    sources: int
    tainted: list[tuple[Tensor, Tensor]]
    memory: set[int]
    fixed: list[tuple[Tensor, Tensor]]
    consult: Callable[[Tensor], bool]

    def of(self, tensor: Any) -> Tensor | None:
        return next((mask for t, mask in self.tainted if t is tensor), None)

    def known(self, tensor: Any, row: int) -> Tensor | None:
        """(*sizes) bool: which elements of it are known to be -inf (row 0) or zero (row 1)."""
        return next((fixed[row] for t, fixed in self.fixed if t is tensor), None)

    def without(self, tensors: list[Tensor]) -> Masks:
        """Of the other inputs. Copies, as those tensors may have been views of the same memory."""
        others = [(t, mask.clone()) for t, mask in self.tainted if not any(t is tensor for tensor in tensors)]
        return Masks(self.sources, others, self.memory, self.fixed, self.consult)

    def everything(self, dims: int) -> Tensor:
        """What tainted any of it, for an output of so many dimensions."""
        return torch.stack([m.reshape(self.sources, -1).any(1) for _, m in self.tainted]).any(0).view(-1, *[1] * dims)


class Operator:
    """One operator with what it was given, for the rule of one of its outputs."""

    def __init__(self, func: Any, args: Any, kwargs: Any, masks: Masks) -> None:
        self.func, self.args, self.kwargs, self.masks = func, args, kwargs, masks
        self.name = bare(func).rstrip("_") if func._schema.name.startswith("aten::") else func._schema.name
        self.pointwise = _is_pointwise(func)
        self._given: dict[str, Any] | None = None

    def get(self, name: str) -> Any:
        """An argument by its name, or its default value; None if there is none of the name."""
        given = self._given
        if given is None:
            arguments = self.func._schema.arguments
            given = {a.name: a.default_value for a in arguments if a.has_default_value()}
            given |= dict(zip((a.name for a in arguments), self.args, strict=False)) | self.kwargs
            self._given = given
        return given.get(name)

    def mask(self, name: str) -> Tensor | None:
        """The taint of a tensor that was given."""
        return self.masks.of(self.get(name))

    def only_first(self) -> Tensor | None:
        """The taint of the first argument, if no other has any."""
        tainted = self.masks.tainted
        return tainted[0][1] if len(tainted) == 1 and self.args and tainted[0][0] is self.args[0] else None


Rule = Callable[[Operator, Tensor, int], Tensor | None]  # (operator, output, its number); None: everything


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
    return func._schema.name.startswith("aten::") and bare(func) in _RAW


def overwrites(func: Any, kwargs: Any) -> bool:
    """Whether nothing is left of what was in the arguments that it changes."""
    if not func._schema.name.startswith("aten::"):
        return False
    return bare(func) in _OVERWRITE or any(a.is_out and a.name in kwargs for a in func._schema.arguments)


def turns(func: Any) -> bool:
    """Whether it changes how a tensor lies in its memory, and nothing in the memory."""
    return func._schema.name.startswith("aten::") and bare(func) in _TURNS


@lru_cache(maxsize=4096)
def _is_pointwise(func: Any) -> bool:
    if torch.Tag.pointwise in func.tags:
        return True
    if not func._schema.name.startswith("aten::") or not bare(func).endswith("_"):
        return False
    functional = getattr(torch.ops.aten, bare(func)[:-1], None)  # some that work in place are not tagged themselves
    overload = getattr(functional, func._overloadname, None)
    return overload is not None and torch.Tag.pointwise in overload.tags


def bare(func: Any) -> str:
    return func._schema.name.split("::")[-1]


def united(masks: list[Tensor | None], dims: int) -> Tensor | None:
    """Of masks that broadcast against each other from the right; None if one has too many dimensions."""
    there = [mask for mask in masks if mask is not None]
    if not there or any(mask.dim() > dims + 1 for mask in there):
        return None
    return reduce(torch.logical_or, [m.reshape(m.shape[0], *[1] * (dims + 1 - m.dim()), *m.shape[1:]) for m in there])


def pointwise(op: Operator, output: Tensor, number: int) -> Tensor | None:
    return united([mask for _, mask in op.masks.tainted], output.dim())


def shaped(op: Operator, output: Tensor, number: int) -> Tensor | None:
    return None if op.only_first() is None else op.masks.everything(output.dim()) & False


# --- along dimensions -----------------------------------------------------------------------------------------------------
def scattered(op: Operator, output: Tensor, number: int) -> Tensor | None:
    """scatter, scatter_add, scatter_reduce: along a dimension, and elsewhere to the same place."""
    index, axis = op.get("index"), op.get("dim")
    if output.dim() == 0 or any(
        n != m for d, (n, m) in enumerate(zip(index.shape, output.shape, strict=True)) if d != axis % output.dim()
    ):
        return None
    moved = [
        None if (m := op.mask(name)) is None else m.any(axis % output.dim() + 1, keepdim=True) for name in ("index", "src")
    ]
    return united([op.mask("self"), *moved], output.dim())


def _axes(op: Operator) -> list[int] | None:
    """The dimensions of the first argument's mask that an operator works along; None: all."""
    dims = op.get("dim")
    if dims is None or dims == []:
        return None
    return [d % max(op.args[0].dim(), 1) + 1 for d in ([dims] if isinstance(dims, int) else dims)]


def mixed(op: Operator, output: Tensor, number: int) -> Tensor | None:
    """Everything along some dimensions."""
    mask, axes = op.only_first(), _axes(op)
    if mask is None or axes is None or mask.dim() != output.dim() + 1:
        return None
    return mask.any(axes, keepdim=True) if mask.dim() > 1 else mask


def reduced(op: Operator, output: Tensor, number: int) -> Tensor | None:
    mask, axes = op.only_first(), _axes(op)
    if mask is None or axes is None or mask.dim() == 1:
        return None
    mask = mask.any(axes, keepdim=bool(op.get("keepdim")))
    return mask if mask.dim() == output.dim() + 1 else None


def cumulative(op: Operator, output: Tensor, number: int) -> Tensor | None:
    mask, axes = op.only_first(), _axes(op)
    return None if mask is None or axes is None or mask.dim() == 1 else so_far(mask, axes[0])


def so_far(mask: Tensor, axis: int) -> Tensor:
    """All that came before along a dimension, and what is there."""
    return mask if mask.shape[axis] == 1 else mask.cumsum(axis, dtype=torch.int32) > 0


def flipped(op: Operator, output: Tensor, number: int) -> Tensor | None:
    mask, dims = op.only_first(), op.get("dims")
    return None if mask is None else mask.flip([d % output.dim() + 1 for d in dims])  # of size 1 it stays what it is


def rolled(op: Operator, output: Tensor, number: int) -> Tensor | None:
    mask, shifts, dims = op.only_first(), op.get("shifts"), op.get("dims")
    if mask is None or not dims or not all(isinstance(shift, int) for shift in shifts):
        return None
    return mask.roll(shifts, [d % output.dim() + 1 for d in dims])


def halved(op: Operator, output: Tensor, number: int) -> Tensor | None:
    """glu: the first half of a dimension with the second."""
    mask = op.only_first()
    if mask is None or mask.shape[axis := op.get("dim") % output.dim() + 1] == 1:
        return mask
    first, second = mask.chunk(2, axis)
    return first | second


def repeated(op: Operator, output: Tensor, number: int) -> Tensor | None:
    mask, repeats = op.only_first(), op.get("repeats")
    if mask is None:
        return None
    mask = mask.reshape(mask.shape[0], *[1] * (output.dim() + 1 - mask.dim()), *mask.shape[1:])
    return mask.repeat(1, *(1 if size == 1 else n for size, n in zip(mask.shape[1:], repeats, strict=True)))


def padded(op: Operator, output: Tensor, number: int) -> Tensor | None:
    """By a constant: pads are given from the last dimension on. A dimension along which all is the same stays so."""
    mask, pad = op.only_first(), list(op.get("pad"))
    if mask is None:
        return None
    for k in range(len(pad) // 2):
        if mask.shape[-1 - k] == 1:
            pad[2 * k : 2 * k + 2] = 0, 0
    return torch.constant_pad_nd(mask, pad, False)


# --- of several tensors ---------------------------------------------------------------------------------------------------
def product(op: Operator, output: Tensor, number: int) -> Tensor | None:
    """Row i of the left factor and column j of the right one go into element (i, j), except by a factor that is known to be
    zero."""
    added = op.name.startswith(("add", "badd"))
    factors, masks = op.args[1:3] if added else op.args[:2], op.masks
    left, right = (masks.of(t) for t in factors)
    bias = masks.of(op.args[0]) if added else None
    if op.name in ("mv", "addmv"):
        return None if left is None or right is not None or bias is not None else left.any(-1)
    if op.name == "dot":
        return None
    if left is not None:
        left = left.any(-1, keepdim=True)
    if right is not None:
        zero = masks.known(factors[0], 1)
        right = right.any(-2, keepdim=True) if zero is None else _weighted(~zero, right, factors[0].shape[-1])
    return united([left, right, bias], output.dim())


def _weighted(weights: Tensor, values: Tensor, inner: int) -> Tensor:
    """Bool weights (..., rows, inner) times bool values (sources, ..., inner, columns)."""
    weights = weights.expand(*weights.shape[:-1], inner).float()
    values = values.expand(*values.shape[:-2], inner, values.shape[-1]).float()
    return weights @ values > 0


def attended(allowed: Tensor, values: Tensor) -> Tensor:
    """What each row may attend to: allowed (..., queries, keys) bool, values (sources, ..., keys, features)."""
    return _weighted(allowed, values, allowed.shape[-1])


def joined(op: Operator, output: Tensor, number: int) -> Tensor | None:
    """cat, stack."""
    tensors = [t for t in op.args[0] if not (t.dim() == 1 and t.numel() == 0)]
    axis = op.get("dim") % output.dim() + 1
    clean = torch.zeros(op.masks.sources, *[1] * tensors[0].dim(), dtype=torch.bool, device="cpu")
    parts = [clean if (mask := op.masks.of(t)) is None else mask for t in tensors]
    if op.name == "stack":
        parts = [part.unsqueeze(axis) for part in parts]
    else:
        parts = [
            p.expand(*p.shape[:axis], t.shape[axis - 1], *p.shape[axis + 1 :]) for p, t in zip(parts, tensors, strict=True)
        ]
    sizes = [max(part.shape[d] for part in parts) for d in range(parts[0].dim())]
    return torch.cat([part.expand(*sizes[:axis], part.shape[axis], *sizes[axis + 1 :]) for part in parts], axis)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("clone", "_to_copy", "copy", "detach", "alias", "contiguous", "nan_to_num", "tril", "triu"), pointwise),
    **dict.fromkeys(("native_dropout", "_fused_dropout"), pointwise),
    **dict.fromkeys(_SHAPED, shaped),
    **dict.fromkeys(
        ("sum", "mean", "prod", "amax", "amin", "max", "min", "argmax", "argmin", "logsumexp", "any", "all"), reduced
    ),
    **dict.fromkeys(("var", "std", "var_mean", "std_mean", "norm", "linalg_vector_norm", "nansum", "count_nonzero"), reduced),
    **dict.fromkeys(("median", "nanmedian", "mode", "kthvalue", "aminmax"), reduced),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax", "sort", "topk"), mixed),
    **dict.fromkeys(("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"), cumulative),
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm", "mv", "dot", "addmv"), product),
    **dict.fromkeys(("cat", "stack"), joined),
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), scattered),
    **{"flip": flipped, "roll": rolled, "glu": halved, "repeat": repeated, "constant_pad_nd": padded},
}
