"""Which values depend on which: taint, followed through what a run does, down to single elements of memory.

A mask is kept for every storage, so views need no rule and agree with what they are views of. How taint passes an operator
stands in `taint_rules`. What leaves torch ends the search (`leaked`): a value that becomes Python's or numpy's, a shape that
depends on values. What comes from out of sight is tainted by everything: results of another thread, memory that was filled by
a pointer. So taint may be found where there is none, and is never missed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dither.estimators.core.leaks import ABOUT, Leaks
from dither.estimators.core.taint_rules import Masks, is_raw, overwrites, passed_on, shape_depends_on_values

MAX_BYTES = 1 << 30  # of masks
_NOISE = {"dither::draw_seed", "dither::compiled_seed", "dither::uniform", "dither::normal"}


class Taint(TorchDispatchMode):
    """Follows `sources` kinds of taint. A mask per storage, (sources, elements).

    before: addresses of memory from before the run, which is clean until something tainted is written into it.
    """

    def __init__(self, sources: int, before: Collection[int]) -> None:
        super().__init__()
        self.sources = sources
        self.leaked = False
        self.leaks = Leaks(self)
        self.written: set[int] = set()  # addresses
        self.of_data: set[int] = set()  # addresses of what was made of Python's or numpy's values
        self.hidden = False  # a whole number in a tensor decided on something within a function, where nobody sees it
        self.too_large = False
        self.dispatched = 0
        self.numbers = 0  # taken from tensors
        self.constructing = False  # a function that was given tainted tensors, and may take their values
        self._before = before
        self._masks: dict[int, Tensor] = {}
        self._sizes: dict[int, int] = {}  # bytes of an element when the mask was made
        self._made: dict[int, Any] = {}  # storages by address, alive, so that none is used twice
        self._bytes = 0
        self._paused = 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it nothing is followed."""
        self._paused += 1
        try:
            with torch._C.DisableTorchFunction():
                yield
        finally:
            self._paused -= 1

    # --- masks --------------------------------------------------------------------------------------------------------
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
        address = storage.data_ptr()
        self._made[address] = storage
        if address not in self._masks:
            size = storage.nbytes() // tensor.element_size()
            self._bytes += self.sources * size
            if self._bytes > MAX_BYTES:
                self.too_large = self.leaked = True
                return
            self._sizes[address] = tensor.element_size()
            self._masks[address] = torch.zeros(self.sources, size, dtype=torch.bool, device=tensor.device)
        if tensor.element_size() != self._sizes[address]:
            self._masks[address] |= mask.reshape(self.sources, -1).any(1, keepdim=True)
            return
        own = self.of(tensor)
        assert own is not None
        own.copy_(own | mask)

    def clean(self, tensor: Tensor) -> None:
        """Forget what tainted it, where it was overwritten."""
        own = self.of(tensor)
        if own is not None and tensor.element_size() == self._sizes[tensor.untyped_storage().data_ptr()]:
            own.zero_()

    def mark(self, output: Tensor, logits: Tensor, own: range, elementwise: bool, units: tuple[int, ...]) -> None:
        """A node's output: tainted by what tainted its logits and, if it is discrete, by its own units."""
        self._made[output.untyped_storage().data_ptr()] = output.untyped_storage()
        self.meet([logits])
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

    # --- operators ----------------------------------------------------------------------------------------------------
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._paused or self.leaked:
            return func(*args, **kwargs)
        self.dispatched += 1
        with self.paused():
            masks = self._of_inputs(func, args, kwargs)
            result = func(*args, **kwargs)
            self.numbers += func._schema.name == "aten::_local_scalar_dense" and not args[0].is_floating_point()
            try:
                if masks is not None:
                    self._follow(func, args, kwargs, result, masks)
            except Exception:  # a kind of tensor that has no such memory
                self.leaked = True
        return result

    def _of_inputs(self, func, args, kwargs) -> Masks | None:
        """Their taint before the operator runs, which may change them."""
        try:
            inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, (Tensor, torch.UntypedStorage))]
            self.meet(inputs, func._schema.name)
            tensors = [t for t in inputs if isinstance(t, Tensor)]
            held = {t.untyped_storage().data_ptr() for t in tensors}
            tainted = [(t, mask) for t in tensors if (mask := self.of(t)) is not None]
            return Masks(self.sources, tainted, held)
        except Exception:
            self.leaked = True
            return None

    def meet(self, inputs: list[Any], name: str = "") -> None:
        """What is read and was not made by an operator, nor before the run, came from out of sight."""
        for value in inputs:
            storage = value.untyped_storage() if isinstance(value, Tensor) else value
            address = storage.data_ptr()
            if address in self._made or address in self._before or storage.nbytes() == 0:
                continue
            self._made[address] = storage
            if name == "aten::lift_fresh":  # made of Python's or numpy's values, none of them tainted, or they have leaked
                self.leaked |= self.constructing
                self.of_data.add(address)
                continue
            if address not in self._masks:
                size = value.element_size() if isinstance(value, Tensor) else 1
                self._sizes[address] = size
                self._masks[address] = torch.ones(
                    self.sources, storage.nbytes() // size, dtype=torch.bool, device=storage.device
                )

    def _follow(self, func, args, kwargs, result, masks: Masks) -> None:
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        written = _written(func, args, kwargs)
        for tensor in outputs + written:
            storage = tensor.untyped_storage()
            self._made.setdefault(storage.data_ptr(), storage)
        self.written |= {t.untyped_storage().data_ptr() for t in written}
        if is_raw(func):
            self.add(outputs[0], torch.ones(self.sources, *[1] * outputs[0].dim(), dtype=torch.bool, device=outputs[0].device))
            return
        if overwrites(func, kwargs):
            masks = masks.without(written)
            for tensor in written:
                self.clean(tensor)
        if not masks.tainted or func._schema.name in _NOISE:
            return
        told = not outputs and result is not None and func._schema.name.split("::")[-1] not in ABOUT
        if told or shape_depends_on_values(func, args, masks):
            self.leaked = True  # a Python number, or a length: control flow may depend on it
            return
        for output in outputs:
            if written or output.untyped_storage().data_ptr() not in masks.memory:
                self.add(output, passed_on(func, args, kwargs, output, masks))
        returned = {t.untyped_storage().data_ptr() for t in outputs}
        for tensor in written:  # and not returned
            if tensor.untyped_storage().data_ptr() not in returned:
                self.add(tensor, masks.everything(tensor.dim()))


def _written(func, args, kwargs) -> list[Tensor]:
    """The arguments that an operator changes."""
    if not func._schema.is_mutable:
        return []
    given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    names = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return [t for name in names for t in tree_leaves(given.get(name)) if isinstance(t, Tensor)]
