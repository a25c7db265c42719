"""Moving averages that stand still while gradients are accumulated.

The calls between two steps of the optimizer are a window. Their statistics are pooled, as if they had been one call of the
concatenated batch, and count after the step. An estimator does not see the optimizer, but it sees the parameters behind a
node's logits: a window goes on while none of them was changed and their `.grad` has grown since the last call. So a warm-up
without a backward pass is no window, and neither are calls whose losses are summed before one backward pass, or whose
gradients torch.autograd.grad takes. Where no parameter is to be seen behind the logits (logits that are plain tensors, code
inside torch.compile, a reentrant checkpoint), each call is a window of its own: unbiased, but not frozen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dither.estimators.core.ranks import mean_over_ranks, world
from dither.estimators.core.site import Site

_VISITS, _ENOUGH = 256, 4  # functions of the graph to look at, and parameters to watch: an optimizer moves them together

Seen = tuple[tuple[int, tuple[int, int] | None], ...]


@dataclass(frozen=True)
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
        now = seen(parameters)
        if self.seen is None:
            return any(gradient is not None for _, gradient in now)
        pairs = list(zip(now, self.seen, strict=True))
        unchanged = all(version == old for (version, _), (old, _) in pairs)
        return unchanged and any(g is not None and g != old for (_, g), (_, old) in pairs)

    def __getstate__(self) -> dict[str, object]:
        # A copy or another process has other parameters, without a gradient.
        return vars(replace(self, parameters=(), seen=None)).copy()

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)


class MovingAverages:
    """Moving averages of a statistic per node over previous windows, which a call does not see before its step."""

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}: the moving average needs 0 <= decay < 1, such as 0.99")
        self.decay = decay
        self.averages: dict[str, Tensor] = {}  # those that a call after the next step sees
        self.nodes: tuple[str, ...] = ()  # those that a state may name; none: any
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
        self._check(name, new, window)
        every = window.rows + rows
        mean = new if window.rows == 0 else torch.lerp(window.mean.to(new), new, rows / every)
        old = torch.zeros_like(new) if window.before is None else window.before.to(new)
        self.averages[name] = torch.lerp(mean, old, self.decay)
        parameters = () if site is None else window.parameters or parameters_behind(site)
        if parameters:
            self._windows[name] = Window(window.before, mean, every, parameters, seen(parameters))
        else:
            self._windows.pop(name, None)

    def _check(self, name: str, new: Tensor, window: Window) -> None:
        """Raise where a node's statistics have another shape than before."""

    def pending(self) -> dict[str, Window]:
        """The windows that a next call may belong to, by node. Nodes that have the very same averages share a window."""
        return {
            name: window
            for name, average in self.averages.items()
            for owner, window in self._windows.items()
            if (name == owner or (name not in self._windows and average is self.averages[owner])) and window.is_pending()
        }

    def load(self, averages: dict[str, Tensor], windows: dict[str, Window]) -> None:
        """Take over a state: averages and pending windows by node, under the names that they have here."""
        own = {name: self._own_name(name) for name in averages}
        self.averages = {own[name]: tensor.clone() for name, tensor in averages.items()}
        self._windows = {own[name]: window for name, window in windows.items()}

    def _own_name(self, name: str) -> str:
        """What a node of a state is called here, whatever wrappers the models were or are in."""
        plain = plain_name(name)
        for candidate in (plain, plain.removeprefix("module."), f"module.{plain}"):
            if not self.nodes or candidate.partition(":")[0] in self.nodes:
                return candidate
        raise ValueError(
            f"the state has averages of a node '{name}', but the nodes of the model are {', '.join(self.nodes)}: load it into "
            "an estimator of the model that it was saved with, or rename its keys"
        )


def _over_ranks(new: Tensor, rows: float) -> tuple[Tensor, float]:
    """The ranks' mean statistics and all their rows: the same on all ranks, whose batches may differ in size."""
    if world() == 1:
        return new, rows
    both = mean_over_ranks(torch.cat((new.flatten(), new.new_full((1,), rows))))
    return both[:-1].view(new.shape), float(both[-1]) * world()


def seen(parameters: tuple[nn.Parameter, ...]) -> Seen:
    """What an optimizer step and a backward pass change: versions, and which gradient is there."""
    return tuple((p._version, None if p.grad is None else (id(p.grad), p.grad._version)) for p in parameters)


def parameters_behind(site: Site) -> tuple[nn.Parameter, ...]:
    """A few of the parameters nearest to a node's logits; none where nothing of the graph is to be seen."""
    if torch.compiler.is_compiling():
        return ()
    linear = getattr(site, "linear", None)  # of a packed site, which has no graph
    if isinstance(linear, nn.Linear) and isinstance(linear.weight, nn.Parameter):
        return (linear.weight,)
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


def plain_name(name: str) -> str:
    """A node's name without what wrappers (compile, checkpointing, FSDP) put into it."""
    wrappers = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
    return ".".join(part for part in name.split(".") if part not in wrappers)
