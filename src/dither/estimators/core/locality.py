"""Which terms of a cost can a unit influence? Found by tracing the closure once, never by looking at gradients.

A gradient of zero does not prove that nothing depends on a unit: a cost may compare, round or take an argmax. So taint is
followed through every operation: element by element where the operation is known to act so (pointwise, reductions, matrix
products, concatenation; views need no rule, because taint is kept per element of storage), and to *all* of the output
otherwise. Values that leave for Python (`.item()`, `bool(tensor)`, numpy) end the search: then every unit is credited
with every term. Credit is thus never lost, and the score function stays unbiased.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dither.estimators.core.execution import Execution, Run
from dither.estimators.core.site import Site
from dither.nodes import Node, taken_over

_NOISE = {"dither::draw_seed", "dither::compiled_seed", "dither::uniform", "dither::normal"}
MAX_UNITS = 1024  # beyond it the units of a node are traced as one

_REDUCE = {"sum", "mean", "prod", "amax", "amin", "max", "min", "argmax", "argmin", "logsumexp", "any", "all", "var", "std"}
_ALONG = {"_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp", "sort", "flip"}
_SAME = {"clone", "_to_copy", "copy", "detach", "alias", "contiguous", "nan_to_num"}
_PRODUCT = {"mm", "bmm", "addmm", "baddbmm", "mv", "dot", "addmv"}
_LEAVES = ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__", "data_ptr")


class Locality:
    """The influences of one estimator, by the structure of its closure: its sites, their shapes, its number of terms.

    A closure that changes its connections but neither sites nor shapes between calls needs `forget()`.
    """

    def __init__(self) -> None:
        self._known: dict[Any, list[Tensor | None]] = {}

    def forget(self) -> None:
        """Trace the closure anew at the next call."""
        self._known.clear()

    def mark(self, execution: Execution, sites: list[Site], terms: int) -> None:
        """Set `influence` of every site."""
        key = (terms, tuple((site.name, site.units) for site in sites))
        if key not in self._known:
            self._known[key] = _trace(execution, sites)
        for site, influence in zip(sites, self._known[key], strict=True):
            site.influence = None if influence is None else influence.to(site.sample.device)


def _trace(execution: Execution, sites: list[Site]) -> list[Tensor | None]:
    units = [math.prod(site.units) for site in sites]
    fine = sum(units) <= MAX_UNITS
    widths = units if fine else [1] * len(sites)
    starts = [sum(widths[:i]) for i in range(len(widths))]
    taint = _Taint(sum(widths))
    # ordinary operations, whatever the estimator makes of them
    run = execution.run(torch.tensor(0, dtype=torch.int64, device="cpu"), Run)
    count = 0

    def handler(node: Node, logits: Tensor) -> Tensor:
        nonlocal count
        with taint.paused():
            before = len(run.records)
            output = run.on_node(node, logits)
            if output.untyped_storage().data_ptr() == logits.untyped_storage().data_ptr():
                output = output.clone()
            own = range(0)
            if len(run.records) > before:
                own = range(starts[count], starts[count] + widths[count])
                count += 1
            taint.mark(output, logits, own, node.elementwise, sites[count - 1].units if own else ())
        return output

    no_oracle = taken_over(execution.plan.nodes.values(), _source=None)  # which must not count these samples
    with torch.no_grad(), torch.random.fork_rng(devices=[]), no_oracle, taint.leaks, taint:
        cost, *_ = run.over(execution.closure, handler)
        with taint.paused():
            reached = taint.of(cost)
    if taint.leaked or count != len(sites):
        return [None] * len(sites)
    table = torch.zeros(sum(widths), cost.shape[1], dtype=torch.bool, device="cpu") if reached is None else reached.any(1).cpu()
    return [table[start : start + width].expand(n, -1) for start, width, n in zip(starts, widths, units, strict=True)]


class _Leaks(TorchFunctionMode):
    """Notices tainted values that become Python's or numpy's without passing an operator."""

    def __init__(self, taint: _Taint) -> None:
        super().__init__()
        self.taint = taint

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in _LEAVES and args and isinstance(args[0], Tensor):
            with self.taint.paused():
                self.taint.leaked |= self.taint.of(args[0]) is not None
        return func(*args, **(kwargs or {}))


class _Taint(TorchDispatchMode):
    """Follows `sources` kinds of taint. A mask per storage, (sources, elements), so that views and in-place writes agree."""

    def __init__(self, sources: int) -> None:
        super().__init__()
        self.sources = sources
        self.leaked = False
        self.leaks = _Leaks(self)
        self._masks: dict[int, Tensor] = {}
        self._alive: list[Any] = []  # storages, so that no address is reused
        self._paused = 0

    def paused(self):
        taint = self

        class Pause:
            def __enter__(self):
                taint._paused += 1

            def __exit__(self, *_):
                taint._paused -= 1

        return Pause()

    def of(self, tensor: Tensor) -> Tensor | None:
        """The mask of a tensor, (sources, *shape), a view; None if nothing tainted it."""
        mask = self._masks.get(tensor.untyped_storage().data_ptr())
        if mask is None or tensor.numel() == 0:
            return None
        strides = (mask.shape[1], *tensor.stride())
        return mask.as_strided((self.sources, *tensor.shape), strides, tensor.storage_offset())

    def add(self, tensor: Tensor, mask: Tensor) -> None:
        """Taint a tensor, in all its views. mask: (sources, *shape) or broadcastable to it."""
        if tensor.numel() == 0:
            return
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._masks:
            self._alive.append(storage)
            size = storage.nbytes() // tensor.element_size()
            self._masks[storage.data_ptr()] = torch.zeros(self.sources, size, dtype=torch.bool, device=tensor.device)
        own = self.of(tensor)
        assert own is not None
        own.copy_(own | mask)

    def mark(self, output: Tensor, logits: Tensor, own: range, elementwise: bool, units: tuple[int, ...]) -> None:
        """A node's output: tainted by what tainted its logits and, if it is discrete, by its own units."""
        inherited = self.of(logits)
        if inherited is not None:
            same = elementwise and output.shape == logits.shape
            self.add(output, inherited if same else inherited.flatten(1).any(1).view(-1, *[1] * output.dim()))
        if len(own) == 0:
            return
        fresh = torch.zeros(self.sources, *output.shape, dtype=torch.bool, device=output.device)
        extra = output.dim() - 1 - len(units)
        if len(own) > 1 and extra >= 0 and tuple(output.shape[1 : 1 + len(units)]) == tuple(units):
            eye = torch.eye(len(own), dtype=torch.bool, device=output.device)
            fresh[own.start : own.stop] = eye.view(len(own), 1, *units, *[1] * extra)
        else:
            fresh[own.start : own.stop] = True
        self.add(output, fresh)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._paused or func._schema.name in _NOISE:
            return result
        self._paused += 1
        try:
            self._follow(func, args, kwargs, result)
        finally:
            self._paused -= 1
        return result

    def _follow(self, func, args, kwargs, result) -> None:
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        masks = [(t, m) for t in inputs if (m := self.of(t)) is not None]
        if not masks:
            return
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if not outputs and result is not None:
            self.leaked = True  # a Python number: control flow may depend on it
        mutated = func._schema.is_mutable
        held = {t.untyped_storage().data_ptr() for t in inputs}
        for output in outputs:
            if mutated or output.untyped_storage().data_ptr() not in held:
                self.add(output, self._rule(func, args, kwargs, output, masks))

    def _rule(self, func, args, kwargs, output: Tensor, masks) -> Tensor:
        """The taint of one output, broadcastable to (sources, *output.shape)."""
        name = func._schema.name.split("::")[-1].rstrip("_")
        ndim = output.dim()
        everything = torch.stack([m.reshape(self.sources, -1).any(1) for _, m in masks]).any(0).view(-1, *[1] * ndim)
        if torch.Tag.pointwise in func.tags or name in _SAME:
            total = torch.zeros(self.sources, *[1] * ndim, dtype=torch.bool, device=output.device)
            for tensor, mask in masks:
                if tensor.dim() > ndim:
                    return everything
                total = total | mask.reshape(self.sources, *[1] * (ndim - tensor.dim()), *tensor.shape)
            return total
        tensor, mask = masks[0]
        if len(masks) == 1 and args and tensor is args[0] and name in _REDUCE | _ALONG:
            arguments = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
            dims = arguments.get("dim")
            if dims is None or dims == []:
                return everything
            dims = [dims] if isinstance(dims, int) else list(dims)
            axes = [d % tensor.dim() + 1 for d in dims]
            reduced = mask
            for axis in axes:
                reduced = reduced.any(axis, keepdim=True)
            if name in _REDUCE and not arguments.get("keepdim", False):
                for axis in sorted(axes, reverse=True):
                    reduced = reduced.squeeze(axis)
            return reduced if reduced.dim() == ndim + 1 else everything
        if name in _PRODUCT:
            return self._product(name, args, output, everything)
        if name in ("cat", "stack"):
            return self._joined(name, args, kwargs, output)
        return everything

    def _product(self, name: str, args, output: Tensor, everything: Tensor) -> Tensor:
        parts = args[1:3] if name.startswith(("add", "badd")) else args[:2]
        left, right = (self.of(t) for t in parts)
        if name in ("mv", "addmv"):  # row i of the matrix alone goes into output i
            if right is not None or left is None or (name == "addmv" and self.of(args[0]) is not None):
                return everything
            return left.any(-1)
        if name == "dot":
            return everything
        total = torch.zeros(self.sources, *output.shape, dtype=torch.bool, device=output.device)
        if left is not None:
            total = total | left.any(-1, keepdim=True)
        if right is not None:
            total = total | right.any(-2, keepdim=True)
        if name in ("addmm", "baddbmm") and (bias := self.of(args[0])) is not None:
            bias = bias.reshape(self.sources, *[1] * (output.dim() - args[0].dim()), *args[0].shape)
            total = total | bias
        return total

    def _joined(self, name: str, args, kwargs, output: Tensor) -> Tensor:
        tensors = [t for t in args[0] if not (t.dim() == 1 and t.numel() == 0)]
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        dim = dim % output.dim()
        clean = [torch.zeros(self.sources, *t.shape, dtype=torch.bool, device=t.device) for t in tensors]
        masks = [c if (m := self.of(t)) is None else m for t, c in zip(tensors, clean, strict=True)]
        return torch.cat(masks, dim + 1) if name == "cat" else torch.stack(masks, dim + 1)
