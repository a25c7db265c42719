"""Which values depend on which: taint, followed through what a run does, down to single elements of memory.

A mask is kept for every storage (`layouts`), so views need no rule and agree with what they are views of. How taint passes an
operator stands in `rules` and `layers`. What leaves torch ends the search (`leaked`): a value that becomes Python's
or numpy's, a shape that depends on values. What comes from out of sight is tainted by everything: results of another thread,
memory that was filled by a pointer. So taint may be found where there is none, and is never missed.

Masks die with the memory that they are of, so nothing is kept alive by being followed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from dither.estimators.core.tracing.fixed import ROWS, fixed, fixes
from dither.estimators.core.tracing.layers import passed_on
from dither.estimators.core.tracing.layouts import Store
from dither.estimators.core.tracing.leaks import ABOUT, Leaks
from dither.estimators.core.tracing.lines import line_of_user
from dither.estimators.core.tracing.notes import Notes
from dither.estimators.core.tracing.origins import Origins
from dither.estimators.core.tracing.rules import Masks, Operator, bare, is_raw, overwrites, shape_depends_on_values, turns

MAX_ELEMENTS = 1 << 28  # of masks
_NOISE = {"dither::draw_seed", "dither::compiled_seed", "dither::uniform", "dither::normal"}
_SHAPES_ALONE = {"_fused_sdp_choice"}  # give a number that depends on no value


class Taint(TorchDispatchMode):
    """Follows `sources` kinds of taint.

    before: addresses of memory from before the run, which is clean until something tainted is written into it. notes: takes
    down what each operator did.
    """

    def __init__(self, sources: int, before: Collection[int], notes: Notes | None = None) -> None:
        super().__init__()
        self.sources = sources
        self.leaked = False
        self.reason: tuple[str, str] | None = None  # the operation that leaked first, and where
        self.leaks = Leaks(self)
        self.written: set[int] = set()  # addresses
        self.of_data: set[int] = set()  # addresses of what was made of Python's or numpy's values
        self.origins = Origins(before)
        self.too_large = False
        self.dispatched = 0
        self.numbers: list[Tensor] = []  # of a clean one each number that was taken, as a view
        self.constructing = False  # a function that was given tainted tensors, and may take their values
        self._before, self._notes = before, notes
        if notes is not None:
            notes.clear()
        self._masks, self._fixed = Store(sources), Store(ROWS)
        self._made: dict[int, StorageWeakRef] = {}  # by address
        self._elements = 0
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

    def leak(self, name: str) -> None:
        """What follows cannot be followed, because of this operation."""
        self.reason = self.reason or (name, line_of_user())
        self.leaked = True

    # --- masks --------------------------------------------------------------------------------------------------------
    def of(self, tensor: Tensor) -> Tensor | None:
        """The mask of a tensor, (sources, *sizes), each its own or 1; None if nothing tainted it."""
        return self._masks.of(tensor)

    def has(self, tensor: Tensor) -> bool:
        """Whether there may be taint in its memory."""
        return self._masks.has(tensor)

    def add(self, tensor: Tensor, mask: Tensor, instead: bool = False, hint: tuple[int, ...] = ()) -> None:
        """Taint a tensor, in all its views. mask: (sources, *sizes), each its own or 1. instead: of what tainted it before."""
        if tensor.numel() == 0:
            return
        address = tensor.untyped_storage().data_ptr()
        before = self._masks.size(address)
        self._masks.write(tensor, mask, not instead, hint)
        self._elements += self._masks.size(address) - before
        if self._elements > MAX_ELEMENTS:
            self.too_large = self.leaked = True

    def made(self, tensor: Tensor | Any) -> None:
        """Remember memory that came to be by an operator, or that was met: a new piece of it, or one that is known."""
        storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else tensor
        address = storage.data_ptr()
        if not self._is_made(address):
            self._made[address] = StorageWeakRef(storage)
            if isinstance(tensor, Tensor):
                self._masks.made(tensor, address)
                self._fixed.made(tensor, address)

    def _is_made(self, address: int) -> bool:
        """Whether the memory at this address is what was there when it was made. What is known of memory that is gone, is
        forgotten."""
        reference = self._made.get(address)
        if reference is None:
            return False
        if not reference.expired():
            return True
        del self._made[address]
        self._elements -= self._masks.size(address)
        self._masks.forget(address)
        self._fixed.forget(address)
        self.origins.forget(address)
        return False

    def mark(self, output: Tensor, logits: Tensor, own: range, elementwise: bool, units: tuple[int, ...]) -> None:
        """A node's output: tainted by what tainted its logits and, if it is discrete, by its own units."""
        self.made(output)
        self.origins.hide(output)
        self.meet([logits])
        inherited = self.of(logits)
        if inherited is not None:
            same = elementwise and output.shape == logits.shape
            self.add(output, inherited if same else inherited.flatten(1).any(1).view(-1, *[1] * output.dim()))
        if len(own) == 0:
            return
        extra = output.dim() - 1 - len(units)
        sizes = (1, *units, *[1] * extra)
        if len(own) == 1 or extra < 0 or tuple(output.shape[1 : 1 + len(units)]) != tuple(units):
            sizes = (1,) * output.dim()
        fresh = torch.zeros(self.sources, *sizes, dtype=torch.bool, device="cpu")
        fresh[own.start : own.stop] = True
        if fresh[0].numel() > 1:
            fresh[own.start : own.stop] = torch.eye(len(own), dtype=torch.bool, device="cpu").view(len(own), *sizes)
        self.add(output, fresh)

    # --- operators ----------------------------------------------------------------------------------------------------
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._paused or self.leaked:
            return func(*args, **kwargs)
        self.dispatched += 1
        with self.paused():
            inputs = _leaves((args, kwargs))
            masks = self._of_inputs(func, inputs)
            result = func(*args, **kwargs)
            if func._schema.name == "aten::_local_scalar_dense" and not args[0].is_floating_point():
                self.numbers.append(args[0])
            try:
                if masks is not None:
                    self._follow(func, args, kwargs, inputs, result, masks)
            except Exception:  # a kind of tensor that has no such memory
                self.leak(bare(func))
        return result

    def _of_inputs(self, func: Any, inputs: list[Any]) -> Masks | None:
        """Their taint before the operator runs, which may change them."""
        try:
            self.meet([t for t in inputs if isinstance(t, (Tensor, torch.UntypedStorage))], func._schema.name)
            tensors = [t for t in inputs if isinstance(t, Tensor)]
            held = {t.untyped_storage().data_ptr() for t in tensors}
            tainted = [(t, mask) for t in tensors if (mask := self._masks.of(t)) is not None]
            known = [(t, mask) for t in tensors if (mask := self._fixed.of(t)) is not None]
            return Masks(self.sources, tainted, held, known, self.origins.consult)
        except Exception:
            self.leak(bare(func))
            return None

    def meet(self, inputs: list[Any], name: str = "") -> None:
        """What is read and was not made by an operator, nor before the run, came from out of sight."""
        for value in inputs:
            storage = value.untyped_storage() if isinstance(value, Tensor) else value
            address = storage.data_ptr()
            if address in self._before or storage.nbytes() == 0 or self._is_made(address):
                continue
            self.made(value)
            self.origins.hide(value)
            if name == "aten::lift_fresh":  # made of Python's or numpy's values, none of them tainted, or they have leaked
                if self.constructing:
                    self.leak("a tensor made of values of others")
                self.of_data.add(address)
                continue
            whole = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
            self.add(whole, torch.ones(self.sources, 1, dtype=torch.bool, device="cpu"))

    def _follow(self, func, args, kwargs, inputs: list[Any], result, masks: Masks) -> None:
        if turns(func):
            return
        outputs = [t for t in _leaves(result) if isinstance(t, Tensor)]
        written = _written(func, args, kwargs)
        for tensor in outputs + written:
            self.made(tensor)
        self.written |= {t.untyped_storage().data_ptr() for t in written}
        self.origins.follow(func, inputs, outputs, written)
        if is_raw(func):
            self.add(outputs[0], torch.ones(self.sources, *[1] * outputs[0].dim(), dtype=torch.bool, device="cpu"))
            return
        if overwrites(func, kwargs):
            masks = masks.without(written)
            for tensor in written:
                self.add(tensor, torch.zeros(self.sources, *[1] * tensor.dim(), dtype=torch.bool, device="cpu"), instead=True)
        op = Operator(func, args, kwargs, masks)
        known = self._fix(op, outputs, written)
        if not masks.tainted or func._schema.name in _NOISE:
            return
        told = not outputs and result is not None and bare(func) not in ABOUT | _SHAPES_ALONE
        if told or shape_depends_on_values(func, args, masks):
            self.leak(bare(func))  # a Python number, or a length: control flow may depend on it
            return
        for number, output in enumerate(outputs):
            if written or output.untyped_storage().data_ptr() not in masks.memory:
                mask = passed_on(op, output, number)
                if known is not None and number == 0:
                    mask = mask & ~known.any(0)
                hint = self._masks.shape(masks.tainted[0][0])
                self.add(output, mask, known is not None and number == 0 and bool(written), hint)
                if self._notes is not None:
                    self._notes.add(op, mask)
        returned = {t.untyped_storage().data_ptr() for t in outputs}
        for tensor in written:  # and not returned
            if tensor.untyped_storage().data_ptr() not in returned:
                self.add(tensor, masks.everything(tensor.dim()))

    def unfix(self, values: list[Any]) -> None:
        """Nothing is known any more of what is in these tensors."""
        with self.paused():
            for tensor in values:
                if isinstance(tensor, Tensor) and self._fixed.has(tensor):
                    self._fixed.forget(tensor.untyped_storage().data_ptr())

    def _fix(self, op: Operator, outputs: list[Tensor], written: list[Tensor]) -> Tensor | None:
        """Note which elements of the first output are known from now on; nothing is of others that were written."""
        known = fixed(op, outputs[0]) if outputs and fixes(op) and op.func._schema.name.startswith("aten::") else None
        for tensor in written:
            self._fixed.write(tensor, torch.zeros(ROWS, *[1] * tensor.dim(), dtype=torch.bool, device="cpu"), added=False)
        if known is not None:
            self._fixed.write(outputs[0], known, added=False)
        return known


def _written(func, args, kwargs) -> list[Tensor]:
    """The arguments that an operator changes."""
    if not func._schema.is_mutable:
        return []
    given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    names = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return [t for name in names for t in _leaves(given.get(name)) if isinstance(t, Tensor)]


def _leaves(value: Any) -> list[Any]:
    """What an operator was given, or gave, in its lists: operators have no other containers."""
    leaves: list[Any] = []
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(part, (tuple, list, dict)):
            leaves += _leaves(part)
        else:
            leaves.append(part)
    return leaves
