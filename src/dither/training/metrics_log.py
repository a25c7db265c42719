"""An append-only log of metrics, one JSON object a line, that a resumed run continues without a gap.

    {"epoch": 1, "step": 400, "train_loss": 0.31, "validation_accuracy": 0.94}

It holds no wall-clock times, so that an interrupted and resumed run leaves the same bytes as another.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from dither import files

CAP = 1 << 30


class CorruptLog(ValueError):
    """A line in the middle of a log cannot be read, or lines are missing."""


class MetricsLog:
    """Appends records to `path`; a crash loses at most what came after the last `sync`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._handle: int | None = None

    def append(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Write one line and hand it to the system.  Returns the record as it will be read back.

        Raises      what `clean` raises; OSError naming the remedy, after taking a half line back.
        """
        record = clean(record)
        line = json.dumps(record, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        handle = self._open()
        end = os.fstat(handle).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(handle, rest) :]
        except OSError as failure:
            os.ftruncate(handle, end)
            files.raise_with_remedy(failure, "append to the log", self.path)
        return record

    def sync(self) -> None:
        """Make all lines durable; to be called before a checkpoint that relies on them."""
        try:
            os.fsync(self._open())
        except OSError as failure:
            files.raise_with_remedy(failure, "sync the log", self.path)

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Cut the log after the last record of at most `step` steps, and return the records left.

        The cut falls before the first line that is later, partial or unreadable.
        """
        records, end = [], 0
        data = files.read_bytes(self.path, CAP) if self.path.exists() else b""
        for record, stop in _lines(data):
            if record is None or record["step"] > step:
                break
            records.append(record)
            end = stop
        handle = self._open()
        os.ftruncate(handle, end)
        self.sync()
        return records

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _open(self) -> int:
        if self._handle is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
            try:
                self._handle = os.open(self.path, flags, 0o666)
                files.fsync_dir(self.path.parent)
                self._drop_half_line(self._handle)
            except OSError as failure:
                files.raise_with_remedy(failure, "open the log", self.path)
        return self._handle

    def _drop_half_line(self, handle: int) -> None:
        """A killed writer may have left half a line, which must not become the start of the next one."""
        data = files.read_bytes(self.path, CAP)
        if data and not data.endswith(b"\n"):
            os.ftruncate(handle, data.rfind(b"\n") + 1)


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All records of a log; a partial last line (being written, or cut off by a crash) is left out.

    Raises      FileNotFoundError; CorruptLog naming the line for anything else that is not a record.
    """
    records = []
    for number, (record, _) in enumerate(_lines(files.read_bytes(path, CAP)), start=1):
        if record is None:
            raise CorruptLog(f"{path}, line {number}, is not a record; delete that line, or resume the run to cut it")
        records.append(record)
    return records


def clean(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record in plain Python types.

    Raises      ValueError for a number that is not finite or a record without an integer "step";
                TypeError for values that are not numbers, strings, booleans or None.
    """
    plain = {key: _plain(key, value) for key, value in record.items()}
    if type(plain.get("step")) is not int:
        raise ValueError(f"the record {plain!r} has no integer 'step'; add the number of steps done")
    return plain


def _lines(data: bytes) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """(record or None if unreadable, offset of its end) of every line that ends in a newline."""
    end = 0
    for line in data.split(b"\n")[:-1]:
        end += len(line) + 1
        try:
            record = files.parse_json(line, "the line")
        except ValueError:
            record = None
        yield (record if isinstance(record, dict) and type(record.get("step")) is int else None), end


def _plain(key: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        if not math.isfinite(value):
            raise ValueError(f"the metric {key!r} is {float(value)}; a log holds finite numbers only: find out why")
        return float(value)
    raise TypeError(f"the metric {key!r} is a {type(value).__name__}; pass a number (`.item()` of a tensor)")
