"""What surrounds the measurement: estimators learn first, and afterwards everything is as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from dither import exact
from dither.auditing._rows import Build, Closure
from dither.estimators import Estimator
from dither.estimators.core import built

MAX_EVALUATIONS = 1024  # of the closure by one gradient: two hundred draws of more would take too long
LEARNING_RATE = 1e-2  # of Adam, for what an estimator learns by gradients (a control variate's net, a baseline's)


@contextmanager
def untouched(model: nn.Module, estimators: Iterable[Estimator], closure: Closure, seed: int) -> Iterator[None]:
    """Within it torch is seeded. Then its generator, the model's buffers and the estimators' states are as before."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    estimators = list(estimators)
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        try:
            for estimator in estimators:
                _initialise(estimator, closure)
            states = [(e, {n: t.clone() for n, t in e.state_dict().items()}) for e in estimators]
            try:
                yield
            finally:
                for estimator, state in states:
                    estimator.load_state_dict(state)
        finally:
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])


def _initialise(estimator: Estimator, closure: Closure) -> None:
    """Lazy parameters learn their shapes from a call. Without one there would be no state to go back to."""
    if any(isinstance(p, UninitializedParameter) for p in estimator.parameters()):
        with estimator.frozen():
            estimator(closure)


def warm_up(estimator: Estimator, closure: Closure, calls: int) -> None:
    """Calls the estimator for its moving averages. Its own parameters take a step of Adam each time, no others do."""
    of_model = {id(p) for p in estimator.model.parameters()}
    own = [p for p in estimator.parameters() if p.requires_grad and id(p) not in of_model]
    optimizer = torch.optim.Adam(own, LEARNING_RATE) if own else None
    before = [p.grad for p in own]
    for _ in range(calls):
        loss = estimator(closure)
        if optimizer:
            for p, gradient in zip(own, torch.autograd.grad(loss, own, allow_unused=True), strict=True):
                p.grad = gradient
            optimizer.step()
    for p, gradient in zip(own, before, strict=True):
        p.grad = gradient


def suitable(model: nn.Module, closure: Closure, builds: Mapping[str, Build]) -> tuple[dict[str, Estimator], dict[str, str]]:
    """(the estimators that give a gradient of the expected cost here, name -> why others do not), after one call."""
    estimators: dict[str, Estimator] = {}
    refused: dict[str, str] = {}
    for name, build in builds.items():
        try:
            estimator = built(build, model, f"builds[{name!r}]")
            if estimator.multi_sample:
                refused[name] = "its objective is another than the expected cost"
                continue
            with untouched(model, [estimator], closure, seed=0):
                _try(estimator, closure)
            if estimator.evaluations > MAX_EVALUATIONS:
                refused[name] = f"it takes {estimator.evaluations} evaluations a gradient, more than {MAX_EVALUATIONS}"
                continue
            estimators[name] = estimator
        except Exception as error:  # another node, too many runs, no memory, a cost without gradient: all are reasons
            refused[name] = " ".join(str(error).split()) or type(error).__name__
    return estimators, refused


def _try(estimator: Estimator, closure: Closure) -> None:
    exact.parameter_gradients(estimator(closure), exact.trainable(estimator.model).values())
