"""Checkpoints that are whole or absent, and verified before they are believed.

    checkpoints/step-000400/tensors.safetensors   every tensor
                            meta.json             everything else
                            manifest.json         format, step, size and sha256 of both, digest of itself

A save writes into `step-000400.tmp-<pid>/`, fsyncs every file, the manifest last, then the folder, and
renames it; so after a crash at any moment the old or the new checkpoint loads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dither import files
from dither.training._content import (
    FORMAT,
    MANIFEST,
    MANIFEST_CAP,
    META,
    TENSORS,
    Checkpoint,
    CorruptCheckpoint,
    encode,
    read,
    read_bytes,
)

__all__ = [
    "FORMAT", "MANIFEST", "META", "TENSORS", "Checkpoint", "CheckpointWarning", "CorruptCheckpoint",
    "load", "save", "steps",
]  # fmt: skip

_NAME = re.compile(r"step-(\d{6,18})(?:\.(tmp|old)-(\d{1,10}))?")


class CheckpointWarning(UserWarning):
    """An older checkpoint was used because the newest is corrupt, or an old one could not be removed."""


def save(
    folder: str | os.PathLike[str],
    step: int,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write the checkpoint of `step` durably, then remove all but the newest `keep`.  Returns its folder.

    Saving the same content again changes nothing; other content for the same step replaces it.
    One writer per folder (a `RunFolder` sees to it).  Leftovers of killed writers are removed.

    Raises      OSError naming file and remedy (disk full, no permission): earlier checkpoints are then
                intact; ValueError or TypeError, before anything is written, for what could not be loaded
                again.
    """
    folder = Path(folder)
    if type(step) is not int or not 0 <= step < 10**18:
        raise ValueError(f"step is {step!r}; it must be an integer from 0 to 10^18: pass the number of steps done")
    if type(keep) is not int or keep < 1:
        raise ValueError(f"keep is {keep!r}; it must be at least 1: the checkpoint just saved counts")
    content = encode(step, tensors, meta)
    target = folder / f"step-{step:06d}"
    try:
        files.make_dir(folder)
        _clean(folder)
        if not _holds(target, content[MANIFEST]):
            _commit(target, content)
    except OSError as failure:
        files.raise_with_remedy(failure, "save the checkpoint; earlier ones are intact", target)
    _prune(folder, step, keep)
    return target


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """The steps of which `folder` has a checkpoint, oldest first; whether it can be trusted, `load` finds out."""
    return sorted({step for step, _, _ in _entries(Path(folder), ("", "old"))})


def load(folder: str | os.PathLike[str], strict: bool = False, step: int | None = None) -> Checkpoint:
    """The newest valid checkpoint of `folder`, or the one of `step`; every byte verified.

    If the newest is corrupt, warns with `CheckpointWarning` and uses the one before (`strict` refuses); a `step` that is asked
    for is never replaced by another.
    Raises      FileNotFoundError when there is none; CorruptCheckpoint when none is valid (strict: when the
                newest is not).
    """
    folder, failures = Path(folder), []
    for saved_step, _, path in _entries(folder, ("", "old")):
        if step is not None and step != saved_step:
            continue
        try:
            saved = read(path, saved_step)
        except CorruptCheckpoint as failure:
            if strict:
                raise
            failures.append(str(failure))
            continue
        if failures:
            text = f"{'; '.join(failures)}; using {path.name} instead"
            warnings.warn(text, CheckpointWarning, stacklevel=2)
        return saved
    which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    if failures:
        remedy = "start a new run" if step is None else "choose another step"
        raise CorruptCheckpoint(f"{which} in {folder} can be trusted: {'; '.join(failures)}; {remedy}")
    there = steps(folder)
    remedy = f"there is {', '.join(map(str, there))}" if there else "check the path or start a new run"
    raise FileNotFoundError(errno.ENOENT, f"there is {which} here; {remedy}", str(folder))


def _commit(target: Path, content: Mapping[str, bytes]) -> None:
    temporary, aside = (target.with_name(f"{target.name}.{kind}-{os.getpid()}") for kind in ("tmp", "old"))
    try:
        temporary.mkdir()
        for name, data in content.items():  # the manifest comes last
            files.write_new(temporary / name, data)
        files.fsync_dir(temporary)
        if os.path.lexists(target):  # a folder cannot be renamed over another; `load` knows the name `aside`
            os.rename(target, aside)
        os.rename(temporary, target)
        files.fsync_dir(target.parent)
    except BaseException:
        _discard(temporary)
        if os.path.lexists(aside) and not os.path.lexists(target):
            os.rename(aside, target)
        raise
    _discard(aside)


def _clean(folder: Path) -> None:
    """Remove what killed writers left; put back a checkpoint that one of them had only moved aside."""
    for _, pid, path in _entries(folder, ("tmp", "old")):
        target = path.with_name(path.name.partition(".")[0])
        if pid != os.getpid() and _is_alive(pid):
            continue
        if ".old-" in path.name and not os.path.lexists(target):
            os.rename(path, target)
        else:
            _discard(path)


def _prune(folder: Path, step: int, keep: int) -> None:
    """Keep the newest `keep` up to `step`, and of later ones (the run resumed before them) the valid."""
    try:
        entries = list(_entries(folder, ("",)))
        old = [path for other, _, path in entries if other <= step][keep:]
        for path in old + [path for other, _, path in entries if other > step and not _holds(path)]:
            doomed = path.with_name(f"{path.name}.tmp-{os.getpid()}")
            os.rename(path, doomed)  # at once, so that a half-removed checkpoint is never read
            shutil.rmtree(doomed) if doomed.is_dir() else doomed.unlink()
    except OSError as failure:
        text = f"an old checkpoint could not be removed ({failure}); remove it by hand if space is short"
        warnings.warn(text, CheckpointWarning, stacklevel=3)


def _discard(path: Path) -> None:
    """Remove what may or may not be there; what cannot be removed now is tried again at the next save."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _entries(folder: Path, kinds: tuple[str, ...]) -> Iterator[tuple[int, int, Path]]:
    """(step, pid or 0, path) of the checkpoints (kind "") and leftovers ("tmp", "old"), newest first."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    matches = [(match, folder / match[0]) for match in map(_NAME.fullmatch, names) if match]
    entries = [(int(m[1]), int(m[3] or 0), path) for m, path in matches if (m[2] or "") in kinds]
    yield from sorted(
        (entry for entry in entries if entry[2].name.startswith(f"step-{entry[0]:06d}")),  # no second spelling
        key=lambda entry: (-entry[0], entry[1]),
    )


def _holds(path: Path, manifest: bytes | None = None) -> bool:
    """Whether a valid checkpoint (with exactly this manifest) is at `path`."""
    match = _NAME.fullmatch(path.name)
    try:
        read(path, int(match[1]) if match else -1)
        return manifest is None or read_bytes(path / MANIFEST, MANIFEST_CAP) == manifest
    except CorruptCheckpoint:
        return False


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        return False  # kill(pid, 0) would end the process there; the folder's lock keeps other writers out
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
