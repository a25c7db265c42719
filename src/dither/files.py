"""Durable, all-or-nothing file writing, and reading with a size cap.  Standard library only.

A file written here is the old one or the new one after a crash at any moment, never a mixture, and its mode
follows the user's umask (`tempfile` and some serialisers leave 0600 whatever the umask says).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

TEMPORARY = ".tmp-"  # how the names of files begin that a killed writer may leave behind

_REMEDIES = {
    errno.ENOSPC: "free some space or write to another disk",
    errno.EDQUOT: "your disk quota is used up: free some space or write to another disk",
    errno.EFBIG: "the file size limit is reached: raise it (`ulimit -f unlimited`) or write less",
    errno.EACCES: "write to a folder that you own, or fix its permissions",
    errno.EPERM: "write to a folder that you own, or fix its permissions",
    errno.EROFS: "the disk is mounted read-only: write to another folder",
    errno.ENOENT: "check the path; its folder must exist",
    errno.EIO: "the disk reported a failure: check it, and write to another one",
}
# Flags that only some systems have: bytes as they are (Windows), no inheritance by child processes;
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# and when reading, no symbolic link, and no waiting for a FIFO to be written.
_NO_SURPRISES = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def raise_with_remedy(failure: OSError, action: str, path: Path) -> NoReturn:
    """Raise the same kind of OSError, saying what was being done, to which file, and what to do about it."""
    reason = os.strerror(failure.errno) if failure.errno else str(failure)
    remedy = _REMEDIES.get(failure.errno or 0, "check the folder and the disk")
    raise OSError(failure.errno, f"cannot {action} ({reason}); {remedy}", str(path)) from failure


def write_new(path: str | os.PathLike[str], data: bytes) -> None:
    """Create `path` (which must not exist), write `data`, fsync; a failure removes what was written."""
    path = Path(path)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)  # the kernel applies the umask
        try:
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(handle, rest) :]
                os.fsync(handle)
            finally:
                os.close(handle)
        except BaseException:
            _remove_quietly(path)
            raise
    except OSError as failure:
        raise_with_remedy(failure, "write the file", path)


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` so that after a crash or an error the file holds the old or the new bytes.

    A temporary file in the same folder is written and fsynced, then renamed over `path`, then the folder is
    fsynced. Mode: 0666 & ~umask.  Raises OSError naming the file and the remedy; the temporary file is then
    removed.
    """
    path = Path(path)
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{os.urandom(4).hex()}"
    try:
        write_new(temporary, data)
        try:
            os.replace(temporary, path)
        except BaseException:
            _remove_quietly(temporary)
            raise
        fsync_dir(path.parent)
    except OSError as failure:
        raise_with_remedy(failure, "write the file", path)


def make_dir(folder: str | os.PathLike[str]) -> None:
    """Create `folder` and its missing parents, each durably; no error if it is there."""
    folder = Path(folder)
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_dir(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_dir(folder.parent)


def fsync_dir(folder: str | os.PathLike[str]) -> None:
    """Make the names in `folder` durable (a rename is not, until its folder is synced).  No-op on Windows."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: str | os.PathLike[str], cap: int) -> bytes:
    """The bytes of a regular file of at most `cap` bytes; ValueError for a larger one, a link, a FIFO ..."""
    path = Path(path)
    try:
        handle = os.open(path, os.O_RDONLY | _BINARY | _NO_SURPRISES)
    except OSError as failure:
        if failure.errno in (errno.ELOOP, errno.ENXIO):
            raise ValueError(f"{path} is not a regular file; replace it by a copy of the file itself") from failure
        raise
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is not a regular file; replace it by a copy of the file itself")
        if status.st_size > cap:
            raise ValueError(f"{path} holds {status.st_size} bytes, more than the {cap} allowed; is it the right file?")
        with open(handle, "rb", closefd=False) as file:
            data = file.read(status.st_size + 1)
    finally:
        os.close(handle)
    if len(data) > status.st_size:
        raise ValueError(f"{path} grew while it was read; stop what is writing to it")
    return data


def parse_json(data: bytes, source: str) -> Any:
    """JSON that means one thing: UTF-8, no duplicate key, no NaN or Infinity, no bottomless nesting.

    Raises ValueError naming `source` otherwise.
    """

    def refuse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a JSON number")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=refuse_constant)
    except RecursionError:
        raise ValueError(f"{source} is not readable JSON: nested too deeply") from None
    except ValueError as failure:  # includes JSONDecodeError and UnicodeDecodeError
        raise ValueError(f"{source} is not readable JSON: {failure}") from failure


def dump_json(value: object, indent: int | None = 2) -> bytes:
    """The one encoding of `value`: sorted keys, UTF-8, newline at the end.  ValueError for NaN, infinity."""
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(value, indent=indent, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=separators)
    return text.encode("utf-8") + b"\n"


def read_json(path: str | os.PathLike[str], cap: int = 16 << 20) -> Any:
    """Parse a JSON file of at most `cap` bytes with `parse_json`; ValueError names the file."""
    return parse_json(read_bytes(path, cap), str(path))


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write `value` with `dump_json` and `write_atomic`; the same value gives the same bytes."""
    try:
        data = dump_json(value)
    except (TypeError, ValueError) as failure:
        raise type(failure)(f"cannot write {path} as JSON: {failure}; use plain finite numbers and strings") from failure
    write_atomic(path, data)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _remove_quietly(path: Path) -> None:
    """Clean up after a failure that is being raised already and must not be hidden by a second one."""
    with contextlib.suppress(OSError):
        os.unlink(path)
