"""State as tensors and JSON: what optimizers, schedulers and estimators hand out, without pickle.

`pack` replaces each tensor of a nested state by its name and keeps the rest as JSON that `unpack` turns back
into exactly the same state: tuples stay tuples, integer keys stay integers, infinities survive, floats keep
every bit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol, cast

from torch import Tensor

_TENSOR, _TUPLE, _FLOAT, _MAPPINGS = (
    "__tensor__",
    "__tuple__",
    "__float__",
    {"__dict__": dict, "__counter__": Counter},
)


class Stateful(Protocol):
    """What a checkpoint can hold: a module, an optimizer, a scheduler, most estimators."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


def stateful(parts: Mapping[str, object]) -> dict[str, Stateful]:
    """Those of the parts that have a state: no plain functions, no None."""
    return {name: cast(Stateful, part) for name, part in parts.items() if hasattr(part, "state_dict")}


def pack(state: Any, name: str) -> tuple[dict[str, Tensor], Any]:
    """(tensors, plain): tensors keyed "name.path.to.it", plain JSON with {"__tensor__": key} in their places.

    Raises      TypeError naming the path of anything that is not a tensor, number, string, None, list, tuple
                or mapping.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _pack(state, name, tensors)


def unpack(tensors: Mapping[str, Tensor], plain: Any) -> Any:
    """The state that `pack` replaced.  Raises ValueError for a missing tensor or an unknown marker."""
    if isinstance(plain, list):
        return [unpack(tensors, item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    marker = next((key for key in plain if key.startswith("__")), None)
    if marker is None:
        return {key: unpack(tensors, item) for key, item in plain.items()}
    content = plain[marker]
    if marker == _TENSOR:
        if content not in tensors:
            raise ValueError(f"the saved state names a tensor {content!r} that is not among the {len(tensors)} saved")
        return tensors[content]
    if marker == _TUPLE:
        return tuple(unpack(tensors, item) for item in content)
    if marker == _FLOAT:
        return float(content)
    if marker in _MAPPINGS:
        return _MAPPINGS[marker]({key: unpack(tensors, item) for key, item in content})
    raise ValueError(f"the saved state has an unknown marker {marker!r}; was it written by a newer version?")


def _pack(state: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(state, Tensor):
        if path in tensors:
            raise ValueError(f"two tensors of the state are both called {path!r}; rename one of the modules")
        tensors[path] = state
        return {_TENSOR: path}
    if state is None or type(state) in (bool, int, str):
        return state
    if type(state) is float:
        return state if math.isfinite(state) else {_FLOAT: repr(state)}
    if isinstance(state, list | tuple):
        items = [_pack(item, f"{path}.{i}", tensors) for i, item in enumerate(state)]
        return {_TUPLE: items} if isinstance(state, tuple) else items
    if isinstance(state, Mapping):
        return _pack_mapping(state, path, tensors)
    raise TypeError(
        f"{path} is a {type(state).__name__}, which cannot be saved without pickle; let state_dict() return "
        "tensors, numbers, strings, lists and dicts only"
    )


def _pack_mapping(state: Mapping[Any, Any], path: str, tensors: dict[str, Tensor]) -> Any:
    odd = [key for key in state if type(key) not in (str, int)]
    if odd:
        raise TypeError(f"{path} has the key {odd[0]!r} of type {type(odd[0]).__name__}; use strings or integers")
    packed = {key: _pack(item, f"{path}.{key}", tensors) for key, item in state.items()}
    if isinstance(state, Counter):
        return {"__counter__": [[key, item] for key, item in packed.items()]}
    if all(type(key) is str and not key.startswith("__") for key in state):
        return packed
    return {"__dict__": [[key, item] for key, item in packed.items()]}
