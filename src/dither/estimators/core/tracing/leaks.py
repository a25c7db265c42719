"""Values that leave torch without passing an operator."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from dither.estimators.core.versions import held

# What may be asked of a tensor without learning a value of it, and give something else than a tensor.
ABOUT = {
    *("dim", "ndimension", "numel", "nelement", "size", "stride", "storage_offset", "element_size", "get_device", "dim_order"),
    *("dense_dim", "sparse_dim", "type", "storage_type", "result_type", "__len__", "__hash__", "__sizeof__"),
    *("is_complex", "is_conj", "is_neg", "is_distributed", "is_inference", "is_floating_point", "is_same_size", "is_signed"),
    *("is_contiguous", "is_pinned", "is_shared", "is_set_to", "is_coalesced", "_is_view", "_is_zerotensor", "_use_count"),
    *("__iter__", "__reversed__", "register_hook", "register_post_accumulate_grad_hook", "backward", "retain_grad"),
    *("requires_grad_", "share_memory_", "__dlpack_device__", "_has_same_storage_numel"),
}


class Leaks(TorchFunctionMode):
    """Notices tainted values that become Python's or numpy's without passing an operator."""

    def __init__(self, taint: Any) -> None:
        super().__init__()
        self.taint = taint

    def __torch_function__(self, func, types, args=(), kwargs=None):
        taint, kwargs = self.taint, kwargs or {}
        name = getattr(func, "__name__", "") or ""
        if taint._paused or taint.leaked or name in ABOUT:
            return func(*args, **kwargs)
        places = name in ("__getitem__", "__setitem__")  # whose lists and numbers are places, and seen
        tainted, outer = self._given_taint(args, kwargs), taint.constructing
        dispatched, numbers = taint.dispatched, len(taint.numbers)
        taint.constructing = tainted and not places
        try:
            result = func(*args, **kwargs)
        finally:
            taint.constructing = outer
        tensors = any(isinstance(part, Tensor) for part in tree_leaves(result))
        if tensors and not places:  # a whole number in a tensor decided on something within a function, where nobody sees it
            for number in taint.numbers[numbers:]:
                taint.origins.consult(number)
        if not tainted:
            if not tensors:
                taint.unfix(tree_leaves((args, kwargs)))  # numpy, an address: it may be written where nobody sees it
            return result
        if name == "__get__":
            self._leak("interface" in getattr(func.__self__, "__name__", ""), name)
        elif tensors:  # map_, apply_: a change that no operator made
            self._leak(taint.dispatched == dispatched and name.endswith("_") and not name.endswith("__"), name)
        else:
            self._leak(result is not None, name)
        return result

    def _leak(self, leaked: bool, name: str) -> None:
        if leaked:
            self.taint.leak(name)

    def _given_taint(self, args: Any, kwargs: Any) -> bool:
        with self.taint.paused():
            try:
                return any(isinstance(t, Tensor) and self.taint.has(held(t)) for t in tree_leaves((args, kwargs)))
            except Exception:
                self.taint.leaked = True
                return False
