"""Which terms of a cost can a unit influence? Known by tracing what the closure does, never by looking at gradients.

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
from dither.estimators.core.structure import Watch
from dither.nodes import Node, taken_over

_NOISE = {"dither::draw_seed", "dither::compiled_seed", "dither::uniform", "dither::normal"}
MAX_UNITS = 1024  # beyond it the units of a node are traced as one
MAX_KNOWN = 256  # structures

_REDUCE = {"sum", "mean", "prod", "amax", "amin", "max", "min", "argmax", "argmin", "logsumexp", "any", "all", "var", "std"}
_ALONG = {"_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp", "sort", "flip"}
_SAME = {"clone", "_to_copy", "copy", "detach", "alias", "contiguous", "nan_to_num"}
_PRODUCT = {"mm", "bmm", "addmm", "baddbmm", "mv", "dot", "addmv"}
_LEAVES = {
    *("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__complex__", "__index__", "__array__", "data_ptr"),
    *("__repr__", "__str__", "__format__", "__contains__", "__dlpack__", "untyped_storage", "storage"),
}


class Locality:
    """The influences of an estimator's units on the terms of its cost, by what the runs of its closure did (`structure`).

    Every call is watched; one that does what an earlier one did has its influences. Another is run once more, with the same
    samples and the same random numbers of torch, numpy and Python, and traced. If it then does something else, nothing is
    known of its connections, and every unit is credited with every term.

    static: set it to True (`estimator.locality.static = True`) for a closure that connects the same samples with the same
    terms in every call: it is traced once for its shapes and not watched. torch.compile cannot look into what is watched, so
    a compiled closure with several terms needs it.
    """

    def __init__(self, static: bool = False) -> None:
        self._known: dict[Any, list[Tensor | None]] = {}
        self.watching = False  # whether the last call had several terms
        self.static = static

    def forget(self) -> None:
        """Trace the closure anew at the next call."""
        self._known.clear()

    def mark(self, execution: Execution, sites: list[Site], terms: int) -> None:
        """Set `influence` of every site."""
        shapes = (terms, tuple((site.name, site.units) for site in sites))
        influences = [self._of_run(execution, sites, shapes, index) for index in range(len(execution.structures))]
        for number, site in enumerate(sites):
            site.influence, site.local = _any([influence[number] for influence in influences]), True
            if site.influence is not None:
                site.influence = site.influence.to(site.sample.device)

    def _of_run(self, execution: Execution, sites: list[Site], shapes: Any, index: int) -> list[Tensor | None]:
        structure = "static" if self.static else execution.structures[index]
        if structure is None:
            return [None] * len(sites)
        key = (shapes, structure)
        if key not in self._known:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            influences, repeated = _trace(execution, sites, index)
            if repeated != structure and not self.static:
                return [None] * len(sites)
            self._known[key] = influences
        return self._known[key]


def _any(influences: list[Tensor | None]) -> Tensor | None:
    """A unit that can change a term in one run is credited with it in all."""
    known = [influence for influence in influences if influence is not None]
    return torch.stack(known).any(0) if known and len(known) == len(influences) else None


def _trace(execution: Execution, sites: list[Site], index: int) -> tuple[list[Tensor | None], Any]:
    """(influences, structure) of run `index`, made once more under the eyes of `_Taint`."""
    units = [math.prod(site.units) for site in sites]
    fine = sum(units) <= MAX_UNITS
    widths = units if fine else [1] * len(sites)
    starts = [sum(widths[:i]) for i in range(len(widths))]
    taint = _Taint(sum(widths))
    # ordinary operations, whatever the estimator makes of them
    run = execution.run(torch.tensor(index, dtype=torch.int64, device="cpu"), Run)
    watch = run.watch = Watch()
    count = 0

    def handler(node: Node, logits: Tensor) -> Tensor:
        nonlocal count
        with taint.paused(), torch._C.DisableTorchFunction():
            before = len(run.records)
            output = run.on_node(node, logits)
            if output.untyped_storage().data_ptr() == logits.untyped_storage().data_ptr():
                output = output.clone()
            own = range(0)
            if len(run.records) > before:
                own = range(starts[count], starts[count] + widths[count])
                count += 1
            taint.mark(output, logits, own, node.elementwise, sites[count - 1].units if own else ())
        watch.note("node", logits, {}, output)
        return output

    no_oracle = taken_over(execution.plan.nodes.values(), source=None)  # which must not count these samples
    try:
        with execution.random.repeated(index), torch.no_grad(), no_oracle, taint.leaks, taint:
            cost, *_ = run.over(execution.closure, handler)
            with taint.paused():
                reached = taint.of(cost)
    except Exception:  # the run itself went well: what cannot be traced is credited with everything
        return [None] * len(sites), run.structure
    if taint.leaked or count != len(sites):
        return [None] * len(sites), run.structure
    table = torch.zeros(sum(widths), cost.shape[1], dtype=torch.bool, device="cpu") if reached is None else reached.any(1).cpu()
    influences: list[Tensor | None] = [
        table[start : start + width].expand(n, -1) for start, width, n in zip(starts, widths, units, strict=True)
    ]
    return influences, run.structure


class _Leaks(TorchFunctionMode):
    """Notices tainted values that become Python's or numpy's without passing an operator."""

    def __init__(self, taint: _Taint) -> None:
        super().__init__()
        self.taint = taint

    def __torch_function__(self, func, types, args=(), kwargs=None):
        named = getattr(func, "__name__", "") in _LEAVES and not self.taint._paused
        if named and args and isinstance(args[0], Tensor):
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
        self._sizes: dict[int, int] = {}  # bytes of an element when the mask was made
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
        address = tensor.untyped_storage().data_ptr()
        mask = self._masks.get(address)
        if mask is None or tensor.numel() == 0:
            return None
        if tensor.element_size() != self._sizes[address]:  # seen as another type: all of it
            return mask.any(1).view(-1, *[1] * tensor.dim()).expand(self.sources, *tensor.shape)
        strides = (mask.shape[1], *tensor.stride())
        return mask.as_strided((self.sources, *tensor.shape), strides, tensor.storage_offset())

    def add(self, tensor: Tensor, mask: Tensor) -> None:
        """Taint a tensor, in all its views. mask: (sources, *shape) or broadcastable to it."""
        if tensor.numel() == 0:
            return
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._masks:
            self._alive.append(storage)
            self._sizes[storage.data_ptr()] = tensor.element_size()
            size = storage.nbytes() // tensor.element_size()
            self._masks[storage.data_ptr()] = torch.zeros(self.sources, size, dtype=torch.bool, device=tensor.device)
        if tensor.element_size() != self._sizes[storage.data_ptr()]:
            self._masks[storage.data_ptr()] |= mask.reshape(self.sources, -1).any(1, keepdim=True)
            return
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
        if (not outputs and result is not None) or self._shapes_by_values(func, args):
            self.leaked = True  # a Python number, or a length: control flow may depend on it
            return
        mutated = func._schema.is_mutable
        if mutated and not outputs:  # an operator that changes its arguments and returns nothing
            everything = torch.stack([m.reshape(self.sources, -1).any(1) for _, m in masks]).any(0)
            for argument, value in zip(func._schema.arguments, args, strict=False):
                for written in tree_leaves(value) if argument.alias_info is not None and argument.alias_info.is_write else ():
                    self.add(written, everything.view(-1, *[1] * written.dim()))
        held = {t.untyped_storage().data_ptr() for t in inputs}
        for output in outputs:
            if mutated or output.untyped_storage().data_ptr() not in held:
                self.add(output, self._rule(func, args, kwargs, output, masks))

    def _shapes_by_values(self, func, args) -> bool:
        """Whether the shape of the result depends on tainted values."""
        if torch.Tag.dynamic_output_shape not in func.tags and torch.Tag.data_dependent_output not in func.tags:
            return False
        if func._schema.name.startswith("aten::index") and len(args) > 1:  # by integers it does not
            masks = [t for t in tree_leaves(args[1]) if isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8)]
            return any(self.of(t) is not None for t in masks)
        return True

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
