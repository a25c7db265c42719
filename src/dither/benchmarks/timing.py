"""How benchmarks measure: in turn, so that a slow spell of the machine falls on all alike.

Rows report `milliseconds`, the median of the repeats, and `min`, their minimum, also in milliseconds. Ratios are
medians of those within one turn.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

import torch

from dither import kernels
from dither.tables import Row

Name = TypeVar("Name")
Step = Callable[[], object]
Times = Mapping[str, Sequence[float]]  # implementation -> milliseconds of each repeat
LARGE = 1 << 25  # entries of the tensors that are copied: far more than the caches hold


def in_turn(
    steps: Mapping[Name, Step],
    repeats: int,
    warm_up: int = 3,
    before: Step | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, list[float]]:
    """Milliseconds of each step, one after the other in every turn. `before` runs untimed before each."""
    times: dict[Name, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + warm_up):
        for name, step in steps.items():
            if before is not None:
                before()
            began = clock()
            step()
            if turn >= warm_up:
                times[name].append(1e3 * (clock() - began))
    return times


def in_blocks(steps: Mapping[str, Step], repeats: int, block: int = 4) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """(hot, cold): each step several times in a row in every turn.

    The first run of a block finds the caches as another step left them (cold). The others, of which the median counts,
    find them as the step itself left them (hot).
    """
    hot: dict[str, list[float]] = {name: [] for name in steps}
    cold: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            first, *rest = in_turn({"": step}, block, warm_up=0)[""]
            cold[name].append(first)
            hot[name].append(median(rest))
    return hot, cold


def ratio(numerators: Sequence[float], denominators: Sequence[float], digits: int = 3) -> float:
    """The median of the ratios within one turn."""
    return round(median(a / b for a, b in zip(numerators, denominators, strict=True)), digits)


def rows_of(times: Times, against: Mapping[str, str], **common: str | int | float) -> list[Row]:
    """A row for each step: its milliseconds, and the ratio to each of `against` (column: step)."""
    return [
        common
        | {"implementation": name, "milliseconds": round(median(own), 3), "min": round(min(own), 3)}
        | {column: ratio(own, times[other]) for column, other in against.items() if other in times}
        for name, own in times.items()
    ]


def prepare(threads: int, precision: str, seed: int) -> None:
    """Threads, seed and the setting of torch's own products, which is the user's to choose and no library's.

    The C library is told to keep the memory that is freed: otherwise each fresh buffer of some megabytes costs page
    faults, up to more than what is measured, and on which implementation they fall depends on the one before it.
    """
    if sys.platform == "linux" and hasattr(c := ctypes.CDLL(None), "mallopt"):
        c.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        c.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.manual_seed(seed)


def limits(threads: int) -> dict[str, float]:
    """The limits of the machine: multiply-adds, copying (bytes read and written), words of Philox; the best of five."""
    source, target = torch.ones(LARGE, dtype=torch.float32, device="cpu"), torch.ones(LARGE, dtype=torch.float32, device="cpu")
    rates = {"copy_gb_s": 8 * LARGE / 1e6 / _fastest(lambda: target.copy_(source))}
    if (library := kernels.library()) is not None:
        rates["fma_gflop_s"] = _multiply_adds(library, threads)
        rates["philox_words_ns"] = threads * _words(library)  # one thread measured
    return {name: round(value, 2) for name, value in rates.items()}


def multiply_add_rate(threads: int) -> float | None:
    """GFLOP/s of float32 multiply-adds, the best of five; None without native kernels, which measure it."""
    library = kernels.library()
    return None if library is None else round(_multiply_adds(library, threads), 2)


def _multiply_adds(library: ctypes.CDLL, threads: int) -> float:
    lanes, rounds = torch.empty(16 * threads, dtype=torch.float32, device="cpu"), 1 << 20
    width = library.dither_multiply_adds(1, lanes.data_ptr(), threads)
    fastest = _fastest(lambda: library.dither_multiply_adds(rounds, lanes.data_ptr(), threads))
    return threads * rounds * 12 * width * 2 / 1e6 / fastest


def _words(library: ctypes.CDLL) -> float:
    """Words a nanosecond."""
    words = torch.empty(8192, dtype=torch.int32, device="cpu")
    fastest = _fastest(lambda: [library.dither_words(1, 0, 0, i, 0, 0, 2048, words.data_ptr()) for i in range(64)])
    return 64 * 8192 / 1e6 / fastest


def _fastest(step: Step) -> float:
    return min(in_turn({"": step}, 5)[""])
