"""How benchmarks measure: in turn, so that a slow spell of the machine falls on all alike, and as ratios within one turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

Step = Callable[[], Any]


def in_turn(steps: Mapping[str, Step], repeats: int, warm_up: int = 3, before: Step | None = None) -> dict[str, list[float]]:
    """Milliseconds of each step, one after the other in every turn. `before` runs untimed before each."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + warm_up):
        for name, step in steps.items():
            if before is not None:
                before()
            began = time.perf_counter()
            step()
            if turn >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - began))
    return times


def in_blocks(steps: Mapping[str, Step], repeats: int, block: int = 4) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """(hot, cold): each step several times in a row in every turn. The first run of a block finds the caches as another step
    left them (cold); the others, of which the median counts, as it left them itself (hot)."""
    hot: dict[str, list[float]] = {name: [] for name in steps}
    cold: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            first, *rest = in_turn({"": step}, block, warm_up=0)[""]
            cold[name].append(first)
            hot[name].append(median(rest))
    return hot, cold


def ratio(found: list[float], other: list[float], digits: int = 3) -> float:
    """The median of found / other within one turn."""
    return round(median(a / b for a, b in zip(found, other, strict=True)), digits)


def rows_of(times: Mapping[str, list[float]], against: Mapping[str, str], **common: Any) -> list[dict[str, Any]]:
    """A row for each step: median and least milliseconds, and the ratio to each of `against` (column: step)."""
    return [
        common
        | {"implementation": name, "milliseconds": round(median(found), 3), "least": round(min(found), 3)}
        | {column: ratio(found, times[other]) for column, other in against.items() if other in times}
        for name, found in times.items()
    ]


def prepare(threads: int, precision: str, seed: int) -> None:
    """Threads, seed and the setting of torch's own products, which is the user's to choose and no library's.

    The C library is told to keep the memory that is freed: otherwise each fresh buffer of some megabytes costs page faults, up
    to more than what is measured, and on which implementation they fall depends on the one before it.
    """
    import ctypes
    import sys

    import torch

    if sys.platform == "linux" and hasattr(c := ctypes.CDLL(None), "mallopt"):
        c.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        c.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.manual_seed(seed)


def limits(threads: int) -> dict[str, float]:
    """What the machine can do at most: multiply-adds, copying (bytes read and written), words of Philox; the best of five."""
    import torch

    from dither.kernels import _library

    source, target = torch.ones(1 << 25), torch.ones(1 << 25)
    found = {"copy_gb_s": 8 * (1 << 25) / 1e6 / min(in_turn({"": lambda: target.copy_(source)}, 5)[""])}
    library = _library.LIBRARY
    if library is None:
        return {name: round(value, 2) for name, value in found.items()}
    lanes, buffer, words = torch.empty(16 * threads), 1 << 20, torch.empty(8192, dtype=torch.int32)
    width = library.dither_multiply_adds(1, lanes.data_ptr(), threads)
    least = min(in_turn({"": lambda: library.dither_multiply_adds(buffer, lanes.data_ptr(), threads)}, 5)[""])
    found["fma_gflop_s"] = threads * buffer * 12 * width * 2 / 1e6 / least
    place = (words.data_ptr(),)
    least = min(in_turn({"": lambda: [library.dither_words(1, 0, 0, i, 0, 0, 2048, *place) for i in range(64)]}, 5)[""])
    found["philox_words_ns"] = threads * 64 * 8192 / 1e6 / least  # one thread measured
    return {name: round(value, 2) for name, value in found.items()}
