"""Whether one torch.func.vmap can make all runs of a closure: tried at its first call, and remembered.

Where vmap raises, the state from before is put back and the runs are made one after the other. And vmap maps a few things
wrongly without a word. They are looked for once, in the first call of a closure:

- what it tells of a tensor's graph: inside it `requires_grad` is False and `grad_fn` None, whatever will be differentiated, so
  that backward hooks of modules are left out;
- activation checkpoints: what they keep for the backward pass does not outlive the vmap;
- frequencies of embeddings (`scale_grad_by_freq`), which are counted over all runs together;
- a buffer that is replaced by what differs from run to run, and would be none afterwards.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from traceback import clear_frames
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch._C import _autograd, _functorch  # type: ignore[attr-defined]
from torch.overrides import TorchFunctionMode

from dither.estimators.core.closures import Buffers, modules_of, written
from dither.estimators.core.randomness import Randomness
from dither.estimators.core.site import Closure
from dither.estimators.core.told import tell
from dither.estimators.core.transforms import depth
from dither.nodes import ClosureError, in_region

Vectorize = Literal["auto"] | bool
R = TypeVar("R")

_GRAPH = {"requires_grad", "grad_fn", "is_leaf"}
_OTHERS = "torch", "dither"  # whose code is not the user's
_LONGEST = 160  # characters of torch's own message


def checked_vectorize(value: Any) -> Vectorize:
    if not isinstance(value, bool) and value != "auto":
        raise ValueError(f'vectorize is {value!r}: it must be "auto" (one vmap where it can be, else a loop) or False (a loop)')
    return value


class Plan(Protocol):
    model: nn.Module


class Unmappable(RuntimeError):
    """What a closure does would be wrong in a vmap."""


class Mappable:
    """What is known of an estimator's closures, by where they are written and whether the model is in training mode: False for
    those that vmap cannot take, else whether they change random numbers or buffers, "changing", or nothing, "plain"."""

    def __init__(self) -> None:
        self._known: dict[Any, Literal["changing", "plain"] | Literal[False]] = {}
        self._rows: set[Any] = set()

    def tried(
        self, plan: Plan, closure: Closure, run: Callable[[], R], reset: Callable[[], None] | None = None
    ) -> tuple[R | None, Failure | None]:
        """(the result of `run`, a vmap over the closure; None), or (None, why it failed), all put back as it was. `reset`
        forgets what the run has left."""
        key = (*written(closure), plan.model.training)
        known = self._known.get(key)
        if known is False:
            return None, Failure(self, key)
        before = None if known == "plain" else _State([plan.model, *modules_of(closure)])
        look = None if known else _Look()
        try:
            if look is None:
                return run(), None
            with look:
                result = run()
            assert before is not None
            before.refuse_leaks()
        except (ClosureError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            failure = Failure(self, key, told(error, look))
            clear_frames(error.__traceback__)  # what the run had computed is not to lie there beside the loop
        else:
            self._known[key] = "changing" if before.changed() else "plain"
            return result, None
        if before is not None:
            before.restore()
        if reset is not None:
            reset()
        return None, failure

    def knows_rows(self, plan: Plan, closure: Closure) -> bool:
        """Whether a closure's rows were looked at before, with repeated=True."""
        if torch.compiler.is_compiling():
            return True
        key = (*written(closure), plan.model.training)
        known = key in self._rows
        self._rows.add(key)
        return known

    def loops(self, key: Any) -> bool:
        """Remember that vmap cannot take a closure. Returns whether it is news."""
        news = self._known.get(key) is not False
        self._known[key] = False
        return news


class Failure:
    """A vmap that cannot be. what: which operation is why, if this is news."""

    def __init__(self, mappable: Mappable, key: Any, what: str = "") -> None:
        self._mappable, self._key, self._what = mappable, key, what

    def tell(self, name: str, runs: str, remedy: str = "") -> None:
        """Warn, once the runs have been made in a loop: so it was the vmap that failed, and not the closure."""
        if self._what and self._mappable.loops(self._key):
            tell(
                f"{name} makes {runs} of this closure one after the other, which is right and takes longer: torch.func.vmap "
                f"cannot take {self._what}. vectorize=False does the same without this warning{remedy}"
            )


class _State:
    """The random numbers and the modules' buffers before a run."""

    def __init__(self, models: list[nn.Module]) -> None:
        self.random, self.buffers = Randomness.now(), Buffers(models)

    def changed(self) -> bool:
        return self.random.moved(0) or self.buffers.changed()

    def restore(self) -> None:
        self.random.restore(0)
        self.buffers.restore()

    def refuse_leaks(self) -> None:
        for module, name, tensor in self.buffers.present():
            if _functorch.is_functorch_wrapped_tensor(tensor) and _functorch.maybe_get_level(tensor) > depth():
                raise Unmappable(f"the buffer '{name}' of {type(module).__name__}, which is another in every run")


class _Look(TorchFunctionMode):
    """Sees what a closure does in its first vmap. operation: the last one that failed."""

    operation = ""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        try:
            result = func(*args, **kwargs)
        except Exception:
            self.operation = _name(func)
            raise
        name = getattr(func, "__name__", "")
        if name == "__get__" and getattr(func.__self__, "__name__", "") in _GRAPH:
            self._refuse_other(func, args[0], result)
        elif name in ("embedding", "embedding_bag"):
            self._refuse_frequencies(name, args, kwargs)
        if _autograd._top_saved_tensors_default_hooks(True) is not None and in_region():
            raise Unmappable("an activation checkpoint (torch.utils.checkpoint)")
        return result

    def _refuse_other(self, func: Any, tensor: Tensor, result: Any) -> None:
        """Raise if vmap says something else of a tensor than is true of what it wraps."""
        if not _functorch.is_batchedtensor(tensor):
            return
        name = func.__self__.__name__
        true = func(_functorch.get_unwrapped(tensor))
        if (true is None) != (result is None) or (isinstance(true, bool) and true != result):
            raise Unmappable(f"a look at `{name}` of a tensor, as module backward hooks take: vmap hides the graph")

    def _refuse_frequencies(self, name: str, args: Any, kwargs: Any) -> None:
        place = {"embedding": 5, "embedding_bag": 6}[name]
        given = kwargs.get("scale_grad_by_freq", args[place] if len(args) > place else False)
        if given is True and any(isinstance(t, Tensor) and _functorch.is_batchedtensor(t) for t in args[:2]):
            raise Unmappable(f"{name} with scale_grad_by_freq, whose frequencies it would count over all runs")


# --- what it was --------------------------------------------------------------------------------------------------------
def told(error: Exception, look: _Look | None) -> str:
    """Which operation, of which layer, where in the user's code, and what torch says of it."""
    message = " ".join(str(error).split())
    if isinstance(error, Unmappable):
        operation = message
    else:
        named = re.search(r"aten::\w+", message)
        operation = named[0] if named else (look.operation if look is not None else "") or "an operation"
    frames = list(_frames(error.__traceback__))
    parts = [operation]
    if layers := [layer for frame, _ in frames if (layer := _layer(frame)) is not None]:
        parts.append(f"in {layers[-1]}")
    if lines := [_line(frame, number) for frame, number in frames if _is_users(frame)]:
        parts.append(f"at {lines[-1]}")
    if not isinstance(error, Unmappable):
        parts.append(f"({message[:_LONGEST]}{'...' if len(message) > _LONGEST else ''})")
    return " ".join(parts)


def _name(func: Any) -> str:
    """As users write it: torch.nn.functional.batch_norm, Tensor.__setitem__."""
    name, module = getattr(func, "__qualname__", None) or repr(func), getattr(func, "__module__", None)
    return name.replace("TensorBase.", "Tensor.") if not module or "." in name else f"{module}.{name}"


def _frames(traceback: TracebackType | None) -> Iterator[tuple[Any, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _is_users(frame: Any) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] not in _OTHERS


def _layer(frame: Any) -> str | None:
    if frame.f_globals.get("__name__", "").startswith("dither."):  # to look at locals keeps them, here the error's with them
        return None
    module = frame.f_locals.get("self")
    if not isinstance(module, nn.Module) or type(module).__module__.startswith("dither."):
        return None
    return type(module).__name__


def _line(frame: Any, number: int) -> str:
    name = frame.f_code.co_filename
    text = linecache.getline(name, number).strip()
    return f"`{text}` ({Path(name).name}:{number})" if text else f"{Path(name).name}:{number}"
