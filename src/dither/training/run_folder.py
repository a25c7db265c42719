"""The folder of one run: what was run, on what, and what came of it.

    config.json  env.json  metrics.jsonl  timing.jsonl  figures/  checkpoints/step-000400/

One process at a time may write to it, and nothing in it is overwritten unless asked for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from dither import files
from dither.training import metrics_log
from dither.training.environment import environment
from dither.training.metrics_log import MetricsLog

CONFIG, LOCK = "config.json", "run.lock"


class RunInUse(OSError):
    """Another process is writing to the run folder."""


class CorruptRun(ValueError):
    """The run's config.json cannot be read."""


class RunFolder:
    """An opened run folder; use it as a context manager, or `close` it, to let others write.

    path         the folder
    config       the configuration, as JSON
    metrics      MetricsLog of metrics.jsonl (the same bytes however often the run was interrupted)
    timing       MetricsLog of timing.jsonl (wall-clock seconds, which are not)
    checkpoints, figures    folders
    created      whether this object made the run, which `create` does and `open` does not
    """

    def __init__(self, path: Path, config: dict[str, Any], lock: FileLock | None) -> None:
        self.path, self.config, self._lock = path, config, lock
        self.metrics, self.timing = MetricsLog(path / "metrics.jsonl"), MetricsLog(path / "timing.jsonl")
        self.checkpoints, self.figures = path / "checkpoints", path / "figures"
        self.created = False
        self._made: list[Path] = []  # the folders that were made for it, the innermost first

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Mapping[str, Any], overwrite: bool = False) -> RunFolder:
        """A new run in `path`, locked for this process.

        overwrite   remove the run that is there (its JSON, logs, figures and checkpoints; no other file)
        Raises      FileExistsError for a folder that is not empty (with `overwrite`: that holds no run);
                    RunInUse when another process has it; OSError naming the remedy.
        """
        path = Path(path)
        encoded = files.dump_json(dict(config))
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"{path} is a file; name a folder for the run")
        new = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            files.make_dir(path)
        except OSError as failure:
            files.raise_with_remedy(failure, "create the run folder", path)
        _check_free(path, overwrite)
        lock = _acquire(path)
        try:
            _check_free(path, overwrite)  # again, now that nobody else can change it
            _remove_run(path)
            (path / "figures").mkdir(exist_ok=True)
            files.write_json(path / "env.json", environment())
            files.write_atomic(path / CONFIG, encoded)  # last: the mark of a complete run folder
        except BaseException:
            lock.release()
            raise
        run = cls(path, files.parse_json(encoded, CONFIG), lock)
        run.created, run._made = True, new
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str], read_only: bool = False) -> RunFolder:
        """The run in `path`; locked for this process unless `read_only` (then it may be in use by another).

        Raises      FileNotFoundError when no run is there, CorruptRun, RunInUse.
        """
        path = Path(path)
        if not (path / CONFIG).exists():
            raise FileNotFoundError(f"{path} is not a run folder (it has no {CONFIG}); check the path or start a new run")
        lock = None if read_only else _acquire(path)
        try:
            config = files.read_json(path / CONFIG)
            if not isinstance(config, dict):
                raise ValueError(f"{path / CONFIG} holds no JSON object")
        except ValueError as failure:
            if lock:
                lock.release()
            raise CorruptRun(f"{failure}; start a new run") from failure
        return cls(path, config, lock)

    @classmethod
    def of(cls, path: str | os.PathLike[str], config: Mapping[str, Any]) -> RunFolder:
        """The run of this configuration in `path`, locked for this process: a new one, or the one that is there.

        Raises      ValueError naming what differs when a run of another configuration is there; what `create` and
                    `open` raise.
        """
        path = Path(path)
        if not (path / CONFIG).is_file():
            return cls.create(path, config)
        run, wanted = cls.open(path), files.parse_json(files.dump_json(dict(config)), CONFIG)
        if different := sorted(key for key in wanted.keys() | run.config.keys() if wanted.get(key) != run.config.get(key)):
            run.close()
            raise ValueError(
                f"{path} holds a run with other {', '.join(different)}: choose another folder with --out, or remove that one"
            )
        return run

    def records(self) -> list[dict[str, Any]]:
        """The metric records written so far."""
        return metrics_log.read(self.metrics.path) if self.metrics.path.exists() else []

    def timings(self) -> list[dict[str, Any]]:
        """The wall-clock records written so far."""
        return metrics_log.read(self.timing.path) if self.timing.path.exists() else []

    def curve(self) -> list[dict[str, Any]]:
        """The metric records written so far, each with the `seconds` of training up to its step."""
        timings = self.timings()
        return [row | {"seconds": sum(t["seconds"] for t in timings if t["step"] <= row["step"])} for row in self.records()]

    @property
    def writable(self) -> bool:
        return self._lock is not None and self._lock.is_locked

    @property
    def begun(self) -> bool:
        """Whether a training has left anything in it."""
        logs = (self.metrics.path, self.timing.path)
        return self.checkpoints.exists() or any(log.exists() and log.stat().st_size > 0 for log in logs)

    def discard(self) -> None:
        """Remove the run, and the folders that were made for it and hold nothing else; then it is closed."""
        self.metrics.close()
        self.timing.close()
        _remove_run(self.path)
        (self.path / LOCK).unlink(missing_ok=True)  # while it is held, so that nobody else takes it
        self.close()
        for folder in self._made:
            with contextlib.suppress(OSError):  # not empty: somebody else uses it
                folder.rmdir()

    def close(self) -> None:
        self.metrics.close()
        self.timing.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _acquire(path: Path) -> FileLock:
    lock = FileLock(path / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunInUse(f"{path} is in use by another process; wait for it to end or choose another folder") from None
    except OSError as failure:
        files.raise_with_remedy(failure, "lock the run folder", path / LOCK)
    for leftover in path.glob(f"{files.TEMPORARY}*"):  # of a killed writer: nobody else can be writing now
        leftover.unlink(missing_ok=True)
    return lock


def _check_free(path: Path, overwrite: bool) -> None:
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith(files.TEMPORARY)} - {LOCK}
    if not names or _is_incomplete(path, names):
        return
    is_run = (path / LOCK).exists() or {CONFIG, "env.json"} <= names
    if overwrite and not is_run:
        raise FileExistsError(f"{path} holds files but no run, so it is not overwritten; choose another folder")
    if not overwrite:
        raise FileExistsError(f"{path} is not empty; continue its run with --resume, or replace it with --overwrite")


def _is_incomplete(path: Path, names: set[str]) -> bool:
    """Whether all that is there is what `create` leaves when it is killed, before the configuration is written."""
    return names <= {"env.json", "figures"} and (path / LOCK).exists() and not any((path / "figures").glob("*"))


def _remove_run(path: Path) -> None:
    """Remove what belongs to a run, the configuration first: half a run must not look like a run."""
    (path / CONFIG).unlink(missing_ok=True)
    for entry in sorted(path.iterdir()):
        if entry.name in ("checkpoints", "figures") and entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.suffix in (".json", ".jsonl") or entry.name == "report.html":
            entry.unlink()
