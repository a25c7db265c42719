"""Activation checkpointing: what is recomputed at backward gives the samples of the forward pass, never fresh ones.

`torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)` runs `block` again during the backward pass: long after an
estimator has let go of its nodes, after `noise.examples` and `deterministic` have ended, perhaps with another state of
torch's generator. So the forward pass notes, for every call of a node in such a region, how its output came about: a
function of the logits that holds a key and no activation. The recomputation calls the same nodes in the same order.

The notes hang on torch's own record of the region, which lives exactly as long as the graph; it is reached through the
saved-tensor hooks that the region has in force. Regions may be nested.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._C import _autograd, _functorch  # type: ignore[attr-defined]

from dither import noise
from dither.nodes.checks import Labelled

Compute = Callable[[Tensor], Any]
_NOTES = "_dither_outputs"


class Recomputed(Labelled, Protocol):
    _unseen: bool


def noted(compute: Compute) -> Compute:
    """`compute`, logits -> output of the present call of a node, noted if the call is in a region that may be recomputed."""
    if torch.compiler.is_compiling() or _autograd._top_saved_tensors_default_hooks(True) is None:
        return compute
    for hook, region in _regions():
        if hook is not None:
            break  # an outer region, being recomputed: it has its notes
        if _functorch.maybe_current_level() is not None:
            raise RuntimeError(
                "a stochastic node lies in an activation checkpoint that torch.func.vmap runs: at backward it could not be "
                "recomputed with the same samples; use vectorize=False in the estimator"
            )
        vars(region).setdefault(_NOTES, []).append(partial(_repeat, compute, noise._EXAMPLES.get()))
    return compute


def refuse_oracle(node: Labelled) -> None:
    """An oracle's noise is gone by the time of a recomputation."""
    if in_region():
        raise RuntimeError(
            f"{node.label} is enumerated inside an activation checkpoint, which could not be recomputed at backward: "
            "turn checkpointing off for the small nets that are enumerated, or audit with reference='average'"
        )


def in_region() -> bool:
    """Whether the present code is in an activation checkpoint, in its forward pass or its recomputation."""
    return next(_regions(), None) is not None


def replay(node: Recomputed) -> Compute | None:
    """While a region is recomputed: what computed this call's output in the forward pass. None elsewhere."""
    if torch.compiler.is_compiling() or torch._C._current_graph_task_id() == -1:
        return None
    for hook, region in _regions():
        if hook is not None and hasattr(region, _NOTES):
            notes = vars(hook).setdefault(_NOTES, iter(getattr(region, _NOTES)))  # each recomputation reads from the start
            compute = next(notes, None)
            if compute is None:
                raise RuntimeError(
                    f"{node.label} is called more often when its checkpointed region is recomputed than in "
                    "the forward pass: which nodes are called must depend on the region's inputs alone"
                )
            return noted(compute)
    if node._unseen:
        raise RuntimeError(
            f"{node.label} is called in a backward pass, to recompute what an estimator ran without a graph: its "
            "samples and its gradient are lost; use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
        )
    return None


@torch.library.custom_op("dither::compiled_seed", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def _compiled_seed(call: int, *, device: torch.device) -> Tensor:
    """The seed of a node that nobody has taken over, in compiled code, where notes can only be taken by an operator."""
    for hook, region in _regions():
        if hook is None:
            vars(region).setdefault(_NOTES, []).append(seed := noise.draw_seed())
            return seed
        notes = vars(hook).setdefault(_NOTES, iter(getattr(region, _NOTES, ())))
        seed = next(notes, None)
        if not isinstance(seed, Tensor):
            raise RuntimeError(
                "a compiled region that an estimator ran under activation checkpointing is recomputed, where its samples "
                "cannot be repeated: compile the parts without stochastic nodes, or do without one of the two"
            )
        return seed.clone()
    return noise.draw_seed()


@_compiled_seed.register_fake
def _(call: int, *, device: torch.device) -> Tensor:
    return torch.empty((), dtype=torch.int64, device="cpu")


def compiled_seed() -> Tensor:
    """As `noise.draw_seed`, for compiled code."""
    return _compiled_seed(noise.traced_call(), device=torch.device("cpu"))


def _repeat(compute: Compute, ids: Tensor | None, logits: Tensor) -> Tensor:
    with noise._EXAMPLES.set(ids):
        output = compute(logits)
    return output[0] if isinstance(output, tuple) else output


def _regions() -> Iterator[tuple[Any, Any]]:
    """The checkpointed regions around the present call, innermost first: (None in the forward pass, or the hook of this
    recomputation; torch's record of the region)."""
    hooks = []
    while (pair := _autograd._top_saved_tensors_default_hooks(True)) is not None:
        hooks.append(pair)
        _autograd._pop_saved_tensors_default_hooks()
    for pair in reversed(hooks):
        _autograd._push_saved_tensors_default_hooks(*pair)
    for pack, _ in hooks:
        hook = inspect.unwrap(pack)
        names = inspect.getclosurevars(hook).nonlocals if hook.__module__ == "torch.utils.checkpoint" else {}
        if "target_frame_ref" in names:
            yield hook, names["target_frame_ref"]()
        elif "frame" in names:
            yield None, names["frame"]
