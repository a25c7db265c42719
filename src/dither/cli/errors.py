"""What went wrong, as an exit code and one line.

    0 ok   1 failed   2 usage   3 missing data or file   4 corrupt or untrusted file   130, 143 a signal

A mistake of the user's never shows a traceback; a mistake of ours does. DITHER_TRACEBACK=1 shows it always.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable

from dither.cli.out import Out

OK, FAILED, USAGE, MISSING, CORRUPT = 0, 1, 2, 3, 4


class CommandError(Exception):
    """A user's error with its exit code; the message names what is wrong and the remedy."""

    exit_code = FAILED


class UsageError(CommandError):
    """The command line asks for something that cannot be."""

    exit_code = USAGE


class MissingError(CommandError):
    """A run, file or data set that is not there."""

    exit_code = MISSING


class CorruptError(CommandError):
    """A file that is there and cannot be trusted."""

    exit_code = CORRUPT


def exit_code(error: BaseException) -> int | None:
    """The exit code for an exception, None for one that is a bug of ours and deserves its traceback.

    An exception may carry its own `exit_code` (an interrupted training: 130 or 143). Corruption is recognised
    by name, because its classes live beside torch and this module must not import torch.
    """
    own = getattr(error, "exit_code", None)
    if isinstance(own, int):
        return own
    names = {c.__name__ for c in type(error).__mro__}
    if any(n.startswith("Corrupt") for n in names):
        return CORRUPT
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, FileNotFoundError):
        return MISSING
    if isinstance(error, FileExistsError):
        return USAGE
    if isinstance(error, (ValueError, ArithmeticError, OSError, ImportError, MemoryError)):
        return FAILED
    return None


def message(error: BaseException) -> str:
    """One line: the exception's own words, or its name when it has none."""
    if isinstance(error, OSError) and error.strerror:  # without the "[Errno 2]"
        return one_line(error.strerror) + (f": {error.filename}" if error.filename else "")
    return one_line(error) or ("interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__)


def one_line(text: object) -> str:
    return " ".join(str(text).split())


def guarded(command: Callable[[], int]) -> int:
    """Runs `command` and turns what it raises into an exit code and one line on stderr."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda text, *where, **more: Out().warn(one_line(text))
            code = command()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (head, less) left: nothing more to say, and the flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except SystemExit as stop:  # tyro's own: 0 after --help, 2 after a usage error
        return stop.code if isinstance(stop.code, int) else USAGE
    except BaseException as error:
        code = exit_code(error)
        if code is None:
            raise
        if os.environ.get("DITHER_TRACEBACK"):
            traceback.print_exc()
        Out().error(message(error))
        return code
