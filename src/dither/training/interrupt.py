"""Stopping at a good moment: SIGINT and SIGTERM wait for the end of the step, and of the checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Training stopped on a signal after saving a checkpoint; `exit_code` is 130 for SIGINT, 143 for
    SIGTERM.  A KeyboardInterrupt, so that `except Exception` around one run does not go on with the next."""

    def __init__(self, signum: int, step: int) -> None:
        name = signal.Signals(signum).name
        super().__init__(f"stopped by {name} after step {step}, which is saved; continue with --resume")
        self.signum, self.step, self.exit_code = signum, step, 128 + signum


class Stop:
    """`signum` is the signal that asked to stop, 0 when none did."""

    signum = 0


@contextmanager
def postponed(active: bool = True) -> Iterator[Stop]:
    """Within it the first SIGINT or SIGTERM is only noted; a second one acts at once as it did before.

    The handlers are restored at the end.  Does nothing when not `active` or not in the main thread, where
    Python allows no handlers.
    """
    stop = Stop()
    if not active or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, handler)

    def note(signum: int, frame: FrameType | None) -> None:
        if stop.signum:
            restore()
            signal.raise_signal(signum)
        stop.signum = signum

    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) is not None:  # None: installed by foreign code, which Python could not restore
            before[signum] = signal.signal(signum, note)
    try:
        yield stop
    finally:
        restore()
