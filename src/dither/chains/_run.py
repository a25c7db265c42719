"""Markov chains of denoising models: many at once, with burn-in, thinning and clamped units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from dither import noise
from dither.cuda_graphs import Graphed
from dither.reconstruction import check_clamp


@dataclass(frozen=True)
class State:
    """Where chains are.

    x           (chains, units)
    mean        of the distribution that x is a sample of
    hidden      layers
    steps       how many `run` has done
    """

    x: Tensor
    _: KW_ONLY
    mean: Tensor | None = None
    hidden: tuple[Tensor | None, ...] = ()
    steps: int = 0


class Model(Protocol):
    """What `run` needs; `models.DAE`, `models.GSN`, `Denoiser` and `Projected` have it."""

    def start(self, x: Tensor) -> State: ...

    def step(self, state: State, clamp: Tensor | None = None, values: Tensor | None = None) -> State: ...


@dataclass(frozen=True)
class Samples:
    """What chains visited: `x` and `mean`, each (recorded steps, chains, units), and the last `state`, to continue."""

    x: Tensor
    mean: Tensor
    state: State


@torch.no_grad()
def run(
    model: Model,
    x: Tensor | State,
    steps: int,
    *,
    burn_in: int = 0,
    thin: int = 1,
    clamp: Tensor | None = None,
    seed: int | None = None,
    cuda_graph: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Samples:
    """Run a chain from every row of x. Of its `steps` steps after the first `burn_in`, record every `thin`-th.

    x           (chains, units), where the chains start; or the `state` of an earlier run, which goes on: with the same
                seed the two runs give what one long run would have given
    clamp       bool, (units,) or (chains, units): True where x stays as it is. The chain then samples the other units
                given these: missing inputs, inpainting, structured output (GSN paper, Sec. 5, Prop. 1)
    seed        the run then depends on nothing but the seed, and torch's generator is left as it was; None: torch's
                generator as it is
    cuda_graph  replay the step as a CUDA graph: same samples, in the time that the GPU takes (`cuda_graphs.Graphed`)
    progress    (steps done, steps in all)

    The clamped chain has the chain's own conditional as its stationary distribution where P(x | x~) and the corruption
    belong to one joint distribution, and the reconstruction is sampled *given* the clamped units. A factorised
    reconstruction ignores them beyond what x~ says; docs/experiments/gdae-consistency.md measures the difference.

    Raises      ValueError for a mask of another shape or dtype, or one that leaves no unit free; for numbers of steps
                of which none is recorded.
    """
    state = x if isinstance(x, State) else model.start(x)
    values, before = state.x, state.steps
    if clamp is not None:
        check_clamp(clamp, values)
    if burn_in < 0 or thin < 1 or steps < thin:
        raise ValueError(
            f"steps={steps}, burn_in={burn_in}, thin={thin}: no step is recorded; steps >= thin >= 1, burn_in >= 0"
        )
    step = _graphed(model, values.device) if cuda_graph else model.step
    visited: list[tuple[Tensor, Tensor]] = []
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        for index in range(1, burn_in + steps + 1):
            if seed is not None:
                torch.default_generator.manual_seed(noise.step_seed(seed, before + index))
            state = step(state, clamp, values if clamp is not None else None)
            if index > burn_in and (index - burn_in) % thin == 0:
                visited.append(_sample_and_mean(state, copy=cuda_graph))
            if progress:
                progress(index, burn_in + steps)
    samples, means = zip(*visited, strict=True)
    state = _copied(state) if cuda_graph else state  # the next run of the graph would overwrite it
    return Samples(torch.stack(samples), torch.stack(means), replace(state, steps=before + burn_in + steps))


def _sample_and_mean(state: State, copy: bool) -> tuple[Tensor, Tensor]:
    mean = state.x if state.mean is None else state.mean
    return (state.x.clone(), mean.clone()) if copy else (state.x, mean)


def _copied(state: State) -> State:
    mean, *hidden = (None if t is None else t.clone() for t in (state.mean, *state.hidden))
    return State(state.x.clone(), mean=mean, hidden=tuple(hidden))


def _graphed(model: Model, device: torch.device) -> Callable[..., State]:
    """The model's step as a CUDA graph."""
    if device.type != "cuda":
        raise ValueError(f"cuda_graph is set for chains on {device}: model and x must be on a GPU; leave it out here")

    def flat(x: Tensor, clamp: Tensor | None, values: Tensor | None, *hidden: Tensor | None) -> tuple[Tensor | None, ...]:
        state = model.step(State(x, mean=None, hidden=hidden), clamp, values)
        return state.x, state.mean, *state.hidden

    graphed = Graphed(flat)

    def step(state: State, clamp: Tensor | None, values: Tensor | None) -> State:
        x, mean, *hidden = graphed(state.x, clamp, values, *state.hidden)
        assert x is not None
        return State(x, mean=mean, hidden=tuple(hidden))

    return step


class Projected:
    """A chain in a representation, seen in the space of the data: it moves over encode(x), and every step is decoded.

    Chains mix better in higher representations, where the classes lie closer together (Bengio, Mesnil, Dauphin and
    Rifai 2013). `model` is a chain over the representation, such as a DAE trained on it; encode and decode map
    (chains, units). There is no clamping: the units of the data are not the chain's.
    """

    def __init__(self, model: Model, encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor]) -> None:
        self.model, self.encode, self.decode = model, encode, decode

    def start(self, x: Tensor) -> State:
        return State(x, mean=None, hidden=(self.encode(x),))

    def step(self, state: State, clamp: Tensor | None = None, values: Tensor | None = None) -> State:
        if clamp is not None:
            raise ValueError("clamp is set for a chain in a representation: its units are not those of x; clamp a DAE or GSN")
        (representation,) = state.hidden
        assert representation is not None
        above = self.model.step(self.model.start(representation))
        x = self.decode(above.x)
        return State(x, mean=x, hidden=(above.x,))
