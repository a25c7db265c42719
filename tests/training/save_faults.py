"""Make every call to the system that one save makes fail or kill the process, in turn, and see what loads then.

    python tests/training/save_faults.py            the calls of Python's os module, replaced in a forked child
    python tests/training/save_faults.py --strace   the system calls themselves, by strace's fault injection

After each fault: the old or the new checkpoint loads, never neither; the new one if `save` returned; the error, if any,
names the checkpoint; nothing half-written is left beside it after an error; and the next save works and cleans up.
Prints one JSON line; exit code 1 if anything else happened.
"""

import argparse
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from contextlib import nullcontext
from pathlib import Path

import torch

from dither.training import checkpoint
from dither.training._content import read

PATCHED = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir", "listdir", "scandir")
MODES = ("kill", "kill after", "ENOSPC", "EIO", "disk stays full")
GROWING, OTHERS = (
    ("openat", "write", "mkdir,mkdirat"),
    ("fsync", "close", "rename,renameat,renameat2", "unlink,unlinkat", "rmdir"),
)
ACTIONS = {calls: ("signal=SIGKILL", "error=ENOSPC") for calls in GROWING}
ACTIONS |= {calls: ("signal=SIGKILL", "error=EIO") for calls in OTHERS}
KILLED, RETURNED, RAISED, WRONG, NOT_REACHED = -signal.SIGKILL, 0, 3, 4, 5


def save(folder, step, value=0):
    tensors = {"w": torch.full((300,), float(100 * step + value)), "b": torch.arange(3)}
    return checkpoint.save(folder, step, tensors, {"value": 100 * step + value}, keep=2)


def content(folder):
    """The value of the checkpoint that loads; None if there is none. Raises if the newest one is corrupt."""
    try:
        loaded = checkpoint.load(folder)
    except FileNotFoundError:
        return None
    assert loaded.tensors["w"].eq(loaded.meta["value"]).all(), "tensors and meta are of different checkpoints"
    return loaded.meta["value"]


# name -> (values saved before, the (step, value) of the save under test, what may load after a fault)
SCENARIOS = {
    "first": ((), (1, 0), {None, 100}),
    "next": (((1, 0), (2, 0)), (3, 0), {200, 300}),
    "same step, other content": (((1, 0), (2, 0)), (2, 7), {200, 207}),
}


class Fault:
    """Counts the calls of the `os` functions and does something else at number `at`: dies before it (half-way
    through a write) or after it, or fails."""

    def __init__(self, mode, at):
        self.mode, self.at, self.calls = mode, at, 0
        self.real = {name: getattr(os, name) for name in PATCHED}

    def __enter__(self):
        for name, real in self.real.items():
            setattr(os, name, self.replacement(name, real))

    def __exit__(self, *_):
        for name, real in self.real.items():
            setattr(os, name, real)

    def replacement(self, name, real):
        def call(*args, **keywords):
            self.calls += 1
            if self.calls < self.at or (self.calls > self.at and self.mode != "disk stays full"):
                return real(*args, **keywords)
            if self.mode == "kill after":
                real(*args, **keywords)
            if self.mode.startswith("kill"):
                if self.mode == "kill" and name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            if self.mode == "disk stays full":
                grows = name in ("write", "mkdir") or (name == "open" and args[1] & os.O_CREAT)
                if not grows:
                    return real(*args, **keywords)
            code = errno.EIO if self.mode == "EIO" else errno.ENOSPC
            raise OSError(code, os.strerror(code))

        return call


def attempt(folder, step, value, log, context, reached=lambda: True):
    """Save within `context`; returns one of the statuses above."""
    try:
        with context, warnings.catch_warnings():
            # An old checkpoint that could not be removed is no failure.
            warnings.simplefilter("ignore", checkpoint.CheckpointWarning)
            save(folder, step, value)
    except OSError as failure:
        log.write_text(repr(failure))
        return RAISED if f"step-{step:06d}" in str(failure) and ";" in str(failure) else WRONG
    except BaseException as failure:
        log.write_text(repr(failure))
        return WRONG
    return RETURNED if reached() else NOT_REACHED


def fork(job):
    """Run `job()` in a forked child, whose exit status is what it returns; returns the pid."""
    pid = os.fork()
    if pid == 0:
        os._exit(job())
    return pid


def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check(folder, status, step, value, allowed, log):
    """What is wrong after the fault, or None."""
    if status not in (KILLED, RETURNED, RAISED):
        return f"exit status {status}: {log.read_text() if log.exists() else ''}"
    left = [path.name for path in folder.glob("*.tmp-*")] if folder.exists() else []
    if status == RAISED and left:
        return f"{left} is left after an error"
    whole = [path for path in folder.iterdir() if path.suffix == ""] if folder.exists() else []
    if status == RAISED and value and folder / f"step-{step:06d}" not in whole:
        return "the checkpoint to be replaced was not put back after an error"
    for path in whole:
        try:
            read(path, int(path.name.removeprefix("step-")))
        except checkpoint.CorruptCheckpoint as failure:
            return f"under the name of a checkpoint there is {failure}"
    try:
        loaded = content(folder)
    except Exception as failure:
        return f"cannot load: {failure!r}"
    if loaded not in allowed or (status == RETURNED and loaded != 100 * step + value):
        return f"{loaded} loads after exit status {status}, allowed {allowed}"
    try:
        save(folder, 8)
        save(folder, 9)
    except Exception as failure:
        return f"cannot save again: {failure!r}"
    names = sorted(path.name for path in folder.iterdir())
    if names != ["step-000008", "step-000009"] or content(folder) != 900:
        return f"after the next saves there is {names} (after the fault {left})"
    return None


def prepare(folder, before):
    shutil.rmtree(folder, ignore_errors=True)
    for step, value in before:
        save(folder, step, value)


def python_faults(work):
    folder, log = work / "checkpoints", work / "log"
    for scenario, (before, (step, value), allowed) in SCENARIOS.items():
        for mode in MODES:
            for at in range(1, 1000):
                prepare(folder, before)
                fault = Fault(mode, at)
                reached = lambda fault=fault: fault.calls >= fault.at  # noqa: E731
                arguments = (folder, step, value, log, fault, reached)
                status = wait(fork(lambda a=arguments: attempt(*a))) if "kill" in mode else attempt(*arguments)
                if status == NOT_REACHED:
                    break  # there is no call number `at`: all have had their turn
                yield f"{scenario}, {mode}, call {at}", status, check(folder, status, step, value, allowed, log)


def strace_faults(work):
    folder, log, trace = work / "checkpoints", work / "log", work / "trace"
    for scenario, (before, (step, value), allowed) in SCENARIOS.items():
        for calls, actions in ACTIONS.items():
            for action in actions:
                for at in range(1, 1000):
                    prepare(folder, before)
                    reader, writer = os.pipe()
                    pid = fork(lambda reader=reader: os.read(reader, 1) and attempt(folder, step, value, log, nullcontext()))  # noqa: B023
                    inject = f"inject={calls}:{action}:when={at}"
                    command = ["strace", "-p", str(pid), "-o", str(trace), "-e", f"trace={calls}", "-e", inject]
                    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
                    attached = "attached" in (tracer.stderr.readline() if tracer.stderr else "")
                    os.write(writer, b"x")
                    status = wait(pid)
                    tracer.communicate()
                    os.close(reader)
                    os.close(writer)
                    if not attached:
                        raise PermissionError("strace cannot attach to a process here")
                    hit = re.search(r"INJECTED|killed by SIGKILL", trace.read_text())
                    if not hit:
                        break
                    name = f"{scenario}, {calls} {action}, call {at}"
                    yield name, status, check(folder, status, step, value, allowed, log)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strace", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count = {"cases": 0, "killed": 0, "raised": 0, "returned": 0}
    problems = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        try:
            for name, status, problem in (strace_faults if arguments.strace else python_faults)(Path(folder)):
                count["cases"] += 1
                count[{KILLED: "killed", RAISED: "raised", RETURNED: "returned"}.get(status, "raised")] += 1
                if problem:
                    problems.append(f"{name}: {problem}")
        except PermissionError as failure:
            print(json.dumps({"skipped": str(failure)}))
            return 0
    print(json.dumps({**count, "problems": problems[:20]}))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
