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
from pathlib import Path

import torch

from dither.training import checkpoint

PATCHED = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir", "listdir", "scandir")
MODES = ("kill before", "kill after", "kill half-way", "ENOSPC", "EIO", "disk stays full")
SYSCALLS = ("openat", "write", "fsync", "close", "mkdir,mkdirat", "rename,renameat,renameat2", "unlink,unlinkat", "rmdir")
ACTIONS = ("signal=SIGKILL", "error=ENOSPC", "error=EIO")
KILLED, RETURNED, RAISED, WRONG, NOT_REACHED = -signal.SIGKILL, 0, 3, 4, 5


def save(folder, step, value=0):
    tensors = {"w": torch.full((300,), float(100 * step + value)), "b": torch.arange(3)}
    return checkpoint.save(folder, step, tensors, {"value": 100 * step + value}, keep=2)


def content(folder):
    """The value of the checkpoint that loads; None if there is none. Raises if the newest one is corrupt."""
    try:
        found = checkpoint.load(folder)
    except FileNotFoundError:
        return None
    assert found.tensors["w"].eq(found.meta["value"]).all(), "tensors and meta are of different checkpoints"
    return found.meta["value"]


# name -> (values saved before, the (step, value) of the save under test, what may load after a fault)
SCENARIOS = {
    "first": ((), (1, 0), {None, 100}),
    "next": (((1, 0), (2, 0)), (3, 0), {200, 300}),
    "same step, other content": (((1, 0), (2, 0)), (2, 7), {200, 207}),
}


class Fault:
    """Counts the calls of the `os` functions and does something else at number `at`."""

    def __init__(self, mode, at):
        self.mode, self.at, self.calls = mode, at, 0

    def install(self):
        for name in PATCHED:
            setattr(os, name, self.replacement(name, getattr(os, name)))

    def replacement(self, name, real):
        def call(*args, **keywords):
            self.calls += 1
            if self.calls < self.at or (self.calls > self.at and self.mode != "disk stays full"):
                return real(*args, **keywords)
            if self.mode == "kill half-way" and name == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            if self.mode == "kill after":
                real(*args, **keywords)
            if self.mode.startswith("kill"):
                os.kill(os.getpid(), signal.SIGKILL)
            if self.mode == "disk stays full":
                grows = name in ("write", "mkdir") or (name == "open" and args[1] & os.O_CREAT)
                if not grows:
                    return real(*args, **keywords)
            code = errno.EIO if self.mode == "EIO" else errno.ENOSPC
            raise OSError(code, os.strerror(code))

        return call


def child(folder, step, value, log, before, reached=lambda: True):
    """Fork, call `before`, save. Returns the pid; exit codes as above."""
    pid = os.fork()
    if pid:
        return pid
    code = WRONG
    try:
        warnings.simplefilter("ignore", checkpoint.CheckpointWarning)  # an old checkpoint that could not be removed
        before()
        save(folder, step, value)
        code = RETURNED if reached() else NOT_REACHED
    except OSError as failure:
        code = RAISED if f"step-{step:06d}" in str(failure) and ";" in str(failure) else WRONG
        log.write_text(repr(failure))
    except BaseException as failure:
        log.write_text(repr(failure))
    finally:
        os._exit(code)


def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def judge(folder, status, step, value, allowed, log):
    """What is wrong after the fault, or None."""
    if status not in (KILLED, RETURNED, RAISED):
        return f"exit status {status}: {log.read_text() if log.exists() else ''}"
    left = [path.name for path in folder.glob("*.tmp-*")] if folder.exists() else []
    if status == RAISED and left:
        return f"{left} is left after an error"
    try:
        found = content(folder)
    except Exception as failure:
        return f"cannot load: {failure!r}"
    if found not in allowed or (status == RETURNED and found != 100 * step + value):
        return f"{found} loads after exit status {status}, allowed {allowed}"
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
                status = wait(child(folder, step, value, log, fault.install, reached))
                if status == NOT_REACHED:
                    break  # there is no call number `at`: all have had their turn
                yield f"{scenario}, {mode}, call {at}", status, judge(folder, status, step, value, allowed, log)


def strace_faults(work):
    folder, log, trace = work / "checkpoints", work / "log", work / "trace"
    for scenario, (before, (step, value), allowed) in SCENARIOS.items():
        for calls in SYSCALLS:
            for action in ACTIONS:
                for at in range(1, 1000):
                    prepare(folder, before)
                    reader, writer = os.pipe()
                    pid = child(folder, step, value, log, lambda reader=reader: os.read(reader, 1))
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
                    yield name, status, judge(folder, status, step, value, allowed, log)


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
