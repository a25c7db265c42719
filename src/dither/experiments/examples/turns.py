"""Trainings in turn, one step of each at a time, so that a slow spell of the machine falls on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Semaphore

Tick = Callable[[], None]


def in_turn(trainings: Mapping[str, Callable[[Tick], object]]) -> dict[str, list[float]]:
    """Milliseconds from each tick to the next, of each training.

    A training is called with `tick`, which it calls at the start of each of its steps; it waits there while the others make
    theirs. What comes before its first tick and after its last is not timed. Each has a thread of its own, and one runs at a
    time. Raises what a training raised, once the others have ended.
    """
    back = Semaphore(0)
    members = {name: _Member(back) for name in trainings}
    with ThreadPoolExecutor(max(len(members), 1)) as pool:
        futures: dict[str, Future[None]] = {n: pool.submit(members[n].run, training) for n, training in trainings.items()}
        while running := [member for member in members.values() if not member.ended]:
            for member in running:
                member.go.release()
                back.acquire()
    for future in futures.values():
        future.result()
    return {name: member.times for name, member in members.items()}


def per_step(times: list[float], steps: int, warm_up: int) -> list[float]:
    """Of each step after the first `warm_up`, but the last, whose end is not timed. Times are from one call of an estimator to
    the next, of which a step may have several, as where gradients are accumulated. Empty where there was no call."""
    calls = (len(times) + 1) // steps
    return [sum(times[calls * k : calls * (k + 1)]) for k in range(warm_up, steps - 1)] if calls else []


class _Member:
    def __init__(self, back: Semaphore) -> None:
        self.go, self.back = Semaphore(0), back
        self.times: list[float] = []
        self.began: float | None = None
        self.ended = False

    def run(self, training: Callable[[Tick], object]) -> None:
        self.go.acquire()
        try:
            training(self.tick)
        finally:
            self.ended = True
            self.back.release()

    def tick(self) -> None:
        if self.began is not None:
            self.times.append(1e3 * (time.perf_counter() - self.began))
        self.back.release()
        self.go.acquire()
        self.began = time.perf_counter()
