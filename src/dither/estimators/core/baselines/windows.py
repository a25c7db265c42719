"""Moving averages that stand still while gradients are accumulated.

The calls between two steps of the optimizer are a window. Their statistics are pooled, as if they had been one call of the
concatenated batch, and count after the step. An estimator does not see the optimizer, but it sees the parameters behind a
node's logits: a window goes on while none of them was changed and their `.grad` has grown since the last call. So a warm-up
without a backward pass is no window, and neither are calls whose losses are summed before one backward pass, or whose
gradients torch.autograd.grad takes. Where no parameter is to be seen behind the logits (logits that are plain tensors, code
inside torch.compile, a reentrant checkpoint), each call is a window of its own: unbiased, but not frozen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dither.estimators.core.baselines.node_state import NodeState
from dither.estimators.core.baselines.positions import common_over_ranks, common_units, reduced
from dither.estimators.core.ranks import mean_over_ranks, world
from dither.estimators.core.site import Site

_VISITS, _ENOUGH = 256, 4  # functions of the graph to look at, and parameters to watch: an optimizer moves them together

# Of each parameter its version, and its gradient with the version of that.
Seen = tuple[tuple[int, "weakref.ref[Tensor] | None", int], ...]


@dataclass(frozen=True, eq=False)
class Window:
    """The calls since the last step. before: the averages without them; mean: of their statistics, over their rows."""

    before: Tensor | None
    mean: Tensor
    rows: float
    parameters: tuple[nn.Parameter, ...] = ()
    seen: Seen | None = None  # of the parameters, at the last call; None: the window was loaded

    def is_open(self, site: Site) -> bool:
        """Whether a call belongs to it: gradients were accumulated since the last call, and no parameter has changed."""
        return not torch.compiler.is_compiling() and self._goes_on(self.parameters or parameters_behind(site))

    def is_pending(self) -> bool:
        """Whether a next call would belong to it, as far as is known."""
        return self.seen is None or self._goes_on(self.parameters)

    def _goes_on(self, parameters: tuple[nn.Parameter, ...]) -> bool:
        if self.seen is None:
            return any(p.grad is not None for p in parameters)
        pairs = list(zip(parameters, self.seen, strict=True))
        return all(p._version == version for p, (version, _, _) in pairs) and any(_grown(p, g, n) for p, (_, g, n) in pairs)

    def converted(self, f: Callable[[Tensor], Tensor]) -> Window:
        return replace(self, before=None if self.before is None else f(self.before), mean=f(self.mean))

    def __getstate__(self) -> dict[str, object]:
        # A copy or another process has other parameters, without a gradient.
        return vars(replace(self, parameters=(), seen=None)).copy()

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)


class MovingAverages(NodeState):
    """Moving averages of a statistic per node over previous windows, which a call does not see before its step."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}: the moving average needs 0 <= decay < 1, such as 0.99")
        self.decay = decay
        self.averages: dict[str, Tensor] = {}  # those that a call after the next step sees
        self._windows: dict[str, Window] = {}

    def known(self, site: Site) -> Tensor | None:
        """The averages that a call sees: without those of its own window."""
        window = self._windows.get(site.name)
        return window.before if window is not None and window.is_open(site) else self.averages.get(site.name)

    def move(self, name: str, new: Tensor, rows: float = 1.0, site: Site | None = None) -> None:
        """Move the averages of a node towards this call's. rows: how many examples `new` is the mean of, which weighs it
        within a window; site: shows whether the window goes on, without it the call is a window of its own."""
        new, rows = _over_ranks(new, rows)
        window = self._windows.get(name)
        if site is None or window is None or not window.is_open(site):
            window = Window(self.averages.get(name), new, 0.0)
        new, window = self._side_by_side(new, window)
        every = window.rows + rows
        mean = new if window.rows == 0 else torch.lerp(window.mean.to(new), new, rows / every)
        old = torch.zeros_like(new) if window.before is None else window.before.to(new)
        self.averages[name] = torch.lerp(mean, old, self.decay)
        parameters = () if site is None else window.parameters or parameters_behind(site)
        if parameters:
            self._windows[name] = Window(window.before, mean, every, parameters, seen(parameters))
        else:
            self._windows.pop(name, None)

    def window(self, name: str) -> Window | None:
        """A node's latest window, be it open or over."""
        return self._windows.get(name)

    def _side_by_side(self, new: Tensor, window: Window) -> tuple[Tensor, Window]:
        """Statistics of one shape, where those of a node change theirs."""
        units = tuple(new.shape[1:])
        for old in (window.before, window.mean):
            units = units if old is None else common_units(units, tuple(old.shape[1:]))
        return reduced(new, units), window.converted(lambda old: reduced(old, units))

    def pending(self) -> dict[str, Window]:
        """The windows that a next call may belong to, by node. Nodes that have the very same averages share a window."""
        return {
            name: window
            for name, average in self.averages.items()
            for owner, window in self._windows.items()
            if (name == owner or (name not in self._windows and average is self.averages[owner])) and window.is_pending()
        }

    def load(self, averages: dict[str, Tensor], windows: dict[str, Window]) -> None:
        """Take over a state: averages and pending windows by node."""
        self.averages, self._windows = averages, windows

    def convert(self, f: Callable[[Tensor], Tensor]) -> None:
        self.averages = {name: f(average) for name, average in self.averages.items()}
        self._windows = {name: window.converted(f) for name, window in self._windows.items()}


def _over_ranks(new: Tensor, rows: float) -> tuple[Tensor, float]:
    """The ranks' mean statistics and all their rows: the same on all ranks, whose batches may differ in size."""
    if world() == 1:
        return new, rows
    new = reduced(new, common_over_ranks(tuple(new.shape[1:]), new.device))
    both = mean_over_ranks(torch.cat((new.flatten(), new.new_full((1,), rows))))
    return both[:-1].view(new.shape), float(both[-1]) * world()


def seen(parameters: tuple[nn.Parameter, ...]) -> Seen:
    """What an optimizer step and a backward pass change: versions, and which gradient is there."""
    gradients = [p.grad for p in parameters]
    return tuple(
        (p._version, None, 0) if g is None else (p._version, weakref.ref(g), g._version)
        for p, g in zip(parameters, gradients, strict=True)
    )


def _grown(parameter: nn.Parameter, gradient: weakref.ref[Tensor] | None, version: int) -> bool:
    """Whether a gradient has come, or come to the one that was there."""
    now = parameter.grad
    return now is not None and (gradient is None or gradient() is not now or now._version != version)


def parameters_behind(site: Site) -> tuple[nn.Parameter, ...]:
    """A few of the parameters nearest to a node's logits; none where nothing of the graph is to be seen."""
    if torch.compiler.is_compiling():
        return ()
    weight, _ = getattr(site, "weights", None) or (None, None)  # of a packed site, which has no graph
    if isinstance(weight, nn.Parameter):
        return (weight,)
    visited, parameters = [site.logits.grad_fn], []
    for function in visited:
        parameter = getattr(function, "variable", None)
        if isinstance(parameter, nn.Parameter):
            parameters.append(parameter)
        if len(parameters) == _ENOUGH:
            break
        if function is not None and len(visited) < _VISITS:
            visited += [f for f, _ in function.next_functions if f is not None]
    return tuple(parameters)
