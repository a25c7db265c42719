"""CUDA graphs whose noise is new at every replay.

A training step of a small stochastic network is hundreds of short kernels, and a processor launches them far slower
than a GPU runs them. A CUDA graph launches all at once, but replays what it recorded, seeds included. Here the graph
reads the seeds from the GPU's memory, where every replay finds those that `noise.draw_seed` would have given. The
results are those of the same calls without a graph.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dither import noise

WARM_UP = 2  # calls that run as they are: they compile kernels, and allocate workspaces and optimizers' state
MAX_SEEDS = 1024
_RING = 128  # replays whose seeds may wait for the GPU at once

Values = tuple[Tensor | None, ...]
Key = tuple[tuple[torch.Size, torch.dtype] | None, ...]  # shapes and types of the inputs


class Graphed:
    """A function of tensors on one GPU, recorded as a CUDA graph for each shape of its inputs, and then replayed.

    function    (*inputs) -> tuple of tensors; inputs and results may hold None. It must do the same to tensors of the
                same shapes whatever their values are, and read none of them on the host. What it closes over must stay
                in place.
    Results     The next call overwrites them: clone those that you still need.
    Noise       That of nodes and corruptions, which has seeds, is the noise of the same calls without a graph. So is
                torch's own noise on the GPU.
    Recording   It executes nothing: tensors that `function` changes stay as they are. The first two calls of each shape
                run without a graph.
    Raises      RuntimeError where a step cannot be recorded: it waits for the GPU, or draws from the generator of the
                CPU.
    """

    def __init__(self, function: Callable[..., Values]) -> None:
        self.function, self._stream = function, torch.cuda.Stream()
        self._calls: dict[Key, int] = {}
        self._recordings: dict[Key, _Recording] = {}
        self._stale: set[Key] = set()  # what replaces them takes their memory: a pool that nobody uses is gone
        self._pool = torch.cuda.graph_pool_handle()

    def reset(self) -> None:
        """Forget the recordings: a number that they hold, such as a learning rate, has changed."""
        self._stale |= self._recordings.keys()

    def __call__(self, *inputs: Tensor | None) -> Values:
        key = tuple(None if t is None else (t.shape, t.dtype) for t in inputs)
        recording = self._recordings.get(key)
        if recording is None or key in self._stale:
            calls = self._calls.get(key, 0)
            self._calls[key] = calls + 1
            if calls < WARM_UP:
                return self._as_it_is(inputs)
            recording = self._recordings[key] = self._record(inputs)
            self._stale.discard(key)
        return recording.replay(inputs)

    def _as_it_is(self, inputs: Values) -> Values:
        # On the stream that records: back-propagation accumulates gradients on the stream of a parameter's first use.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            results = self.function(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return results

    def _record(self, inputs: Values) -> _Recording:
        places = tuple(None if t is None else t.clone() for t in inputs)
        seeds = _Seeds()
        graph, before = torch.cuda.CUDAGraph(), torch.default_generator.get_state()
        torch.cuda.synchronize()
        collecting = gc.isenabled()
        gc.disable()  # freeing what another graph holds is not allowed meanwhile
        try:
            with torch.cuda.stream(self._stream), noise.seeds_from(iter(seeds)):
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    results = self.function(*places)
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            raise RuntimeError(
                f"this step cannot be recorded as a CUDA graph ({str(error).splitlines()[0]}): it reads a value on the host, "
                "or makes a tensor there; leave cuda_graph out"
            ) from error
        finally:
            if collecting:
                gc.enable()
        if not torch.equal(before, torch.default_generator.get_state()):
            raise RuntimeError(
                "this step draws from torch's generator on the CPU, which a CUDA graph would not repeat: draw on the GPU, or "
                "by dither's nodes, or leave cuda_graph out"
            )
        return _Recording(graph, places, results, seeds)


@dataclass
class _Recording:
    graph: torch.cuda.CUDAGraph
    places: Values
    results: Values
    seeds: _Seeds

    def replay(self, inputs: Values) -> Values:
        for place, value in zip(self.places, inputs, strict=True):
            if place is not None and value is not None:
                place.copy_(value)
        self.seeds.renew()
        self.graph.replay()
        return self.results


class _Seeds:
    """Seeds in the GPU's memory, handed out one by one while recording, and renewed for every replay."""

    def __init__(self) -> None:
        self.there = torch.zeros(MAX_SEEDS, dtype=torch.int64, device="cuda")
        self.count = self.turn = 0
        self.here: Tensor | None = None

    def __iter__(self) -> Iterator[Tensor]:
        for seed in self.there:
            self.count += 1
            yield seed
        raise RuntimeError(f"more than {MAX_SEEDS} calls of stochastic nodes in one step")

    def renew(self) -> None:
        if self.count == 0:
            return
        if self.here is None:
            self.here = torch.empty(_RING, self.count, dtype=torch.int64, pin_memory=True, device="cpu")
        if self.turn == 0:
            torch.cuda.current_stream().synchronize()  # nothing of the ring is on its way any more
        row = noise.draw_seeds(self.here[self.turn])
        self.there[: self.count].copy_(row, non_blocking=True)
        self.turn = (self.turn + 1) % _RING
