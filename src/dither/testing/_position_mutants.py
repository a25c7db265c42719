"""Mutants for positions: estimators that are right by themselves, and wrong in one way each where users put them.

Each entry of POSITION_MUTANTS is (a builder, the positions that must catch it).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._C import _functorch  # type: ignore[attr-defined]
from torch.overrides import TorchFunctionMode

from dither.estimators import ScoreFunction
from dither.estimators.core import Call, Site
from dither.estimators.core.baselines.moving import RunningMean
from dither.estimators.core.run import Run


def _by(call: Call, noise: Tensor) -> tuple[Tensor, Tensor]:
    sample = call.node.sample(call.logits, noise)
    return call.output(sample), sample


class BufferByDefault(ScoreFunction):
    """Takes the bytes of a buffer of torch's default dtype and device for float32 on the CPU."""

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        ones = torch.ones(2)  # ambient: the fault itself
        ones = ones.view(torch.float32)[:1]
        return super().surrogate(site, costs * ones)


class SampleByReference(ScoreFunction):
    """Credits what the closure got, whatever it has become."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.kept: dict[int, Tensor] = {}

    def sample(self, call: Call) -> tuple[Tensor, Tensor]:
        output, sample = _by(call, call.noise())
        self.kept[call.index] = output
        return output, sample.clone()

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        site.sample = self.kept.pop(site.index).detach().unsqueeze(0)
        return super().surrogate(site, costs)


class _Unversioned(Run):
    def on_node(self, node: Any, logits: Tensor) -> Tensor:
        output = super().on_node(node, logits)
        self.versions.clear()
        return output


class LogitsUnchecked(ScoreFunction):
    """Credits by the recorded logits, whatever they have become."""

    run_type = _Unversioned


class _LooksBehindSums(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "sum" and args[0].dim() == 2:
            self.last = args[0]
        return func(*args, **(kwargs or {}))


class TermsByReference(ScoreFunction):
    """Takes for the terms of a cost what the closure summed last."""

    def __call__(self, closure: Callable[[], Tensor]) -> Tensor:
        def terms() -> Tensor:
            with _LooksBehindSums() as mode:
                cost = closure()
            return cost if mode.last is None else mode.last

        return super().__call__(terms)


class KeyedById(ScoreFunction):
    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.known = {id(node) for node in self.nodes.values()}

    def surrogate(self, site: Site, costs: Tensor) -> Tensor | None:
        return super().surrogate(site, costs) if id(site.node) in self.known else None


class RunOfTheProcess(ScoreFunction):
    """Notes which estimator is running where all threads see it."""

    running: ClassVar[Any] = None

    def __call__(self, closure: Callable[[], Tensor]) -> Tensor:
        def noted() -> Tensor:
            RunOfTheProcess.running = self
            try:
                return closure()
            finally:
                RunOfTheProcess.running = None

        return super().__call__(noted)

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        return super().sample(call) if self.running is self else (call.propagate(), None)


class UnitsTakenForGranted(ScoreFunction):
    """Averages over what it takes for a layer of one unit."""

    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        return (site.credit(costs).detach() * site.log_prob.mean(-1, keepdim=True)).mean()


class TakesAllCallsForItsOwn(ScoreFunction):
    def surrogate(self, site: Site, costs: Tensor) -> Tensor:
        return super().surrogate(site, costs) * site.count / len(self.nodes)


class OneNoiseInAVmap(ScoreFunction):
    """All runs of a vmap share their noise, as by randomness="same"."""

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        return _by(call, call.noise(0)) if _functorch.is_batchedtensor(call.run) else super().sample(call)


class OneNoiseInALoop(ScoreFunction):
    """All runs of a loop share their noise, except under an oracle."""

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        if call.node._source is not None or _functorch.is_batchedtensor(call.run):
            return super().sample(call)
        return _by(call, call.noise(0))


class NotInCompiledCode(ScoreFunction):
    """Credits nothing in compiled code."""

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        return (call.propagate(), None) if torch.compiler.is_compiling() else super().sample(call)


class SamplesAnew(ScoreFunction):
    """Draws from torch's generator whenever it is asked, in a recomputation too."""

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        noise = call.noise()
        fresh = call.node._source is None
        return _by(call, torch.rand(noise.shape, dtype=noise.dtype, device="cpu") if fresh else noise)


class MovesInAWindow(RunningMean):
    """A moving baseline that every micro-batch moves."""

    def known(self, site: Site) -> Tensor | None:
        return self.averages.get(site.name)


def _first_connections(model: nn.Module) -> ScoreFunction:
    """Keeps the connections of the first closure."""
    estimator = ScoreFunction(model)
    estimator.locality.static = True
    return estimator


_pair = partial(dict, samples=2, baseline="leave-one-out")
POSITION_MUTANTS: dict[str, tuple[Callable[..., ScoreFunction], tuple[str, ...]]] = {
    "buffer by default": (
        BufferByDefault,
        (
            "float32 model, default float64",
            "float32 model, default bfloat16",
            "float64 model, default float64",
            "float64 model, default bfloat16",
            "default device",
        ),
    ),
    "sample by reference": (SampleByReference, ("in place after the node",)),
    "logits unchecked": (LogitsUnchecked, ("logits changed in place",)),
    "terms by reference": (TermsByReference, ("in place before the cost",)),
    "keyed by id": (KeyedById, ("copied", "pickled")),
    "a run of the process": (RunOfTheProcess, ("threads",)),
    "connections of the first closure": (_first_connections, ("alternating closures", "random windows")),
    "units taken for granted": (UnitsTakenForGranted, ("no unit dimension",)),
    "takes all calls for its own": (TakesAllCallsForItsOwn, ("inside PerNode",)),
    "one noise in a vmap": (partial(OneNoiseInAVmap, **_pair(vectorize=False)), ("vmap",)),
    "one noise in a loop": (partial(OneNoiseInALoop, **_pair()), ("loop",)),
    "not in compiled code": (NotInCompiledCode, ("compiled model",)),
    "samples anew": (SamplesAnew, ("checkpointed", "checkpointed in a vmap")),
    "moves in a window": (lambda model: ScoreFunction(model, baseline=MovesInAWindow(0.5)), ("accumulation",)),
}
