"""Where data files are: in a folder, in $DITHER_DATA, in the user's cache; else downloaded, with checksum."""

import hashlib
import http.client
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dither import files
from dither.data._errors import CorruptData

PACKED_LIMIT = 1 << 28  # bytes of a file as stored; the largest known today is 26 MB
TIMEOUT = 30  # seconds without a byte


def cache_dir() -> Path:
    """The per-user cache: $XDG_CACHE_HOME/dither, by default ~/.cache/dither."""
    # The XDG rule: a relative path there is to be ignored.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "dither"


def read_verified(
    name: str, sha256: str, mirrors: Sequence[str], data_dir: str | os.PathLike[str] | None = None
) -> tuple[bytes, str]:
    """The bytes of the file `name` ("mnist/t10k-labels-idx1-ubyte.gz") and the path that they came from.

    With `data_dir` the file must be there. Without, it may also come from a mirror. The bytes returned are
    those that were hashed. Raises FileNotFoundError for no such file, CorruptData for one with another sha256.
    """
    path = locate(name, sha256, mirrors, data_dir)
    try:
        data = files.read_bytes(path.resolve(), PACKED_LIMIT)  # resolved: a data folder may well consist of links
    except ValueError as error:
        raise CorruptData(str(path), f"a file of at most {PACKED_LIMIT:,} bytes", str(error)) from error
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise CorruptData(str(path), f"sha256 {sha256}", f"{actual} ({len(data):,} bytes)")
    return data, str(path)


def locate(name: str, sha256: str, mirrors: Sequence[str], data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The path of the file `name`, downloaded into the cache if it is in none of the folders."""
    folders = [Path(data_dir).expanduser()] if data_dir is not None else _default_folders()
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    if data_dir is not None:
        failures = ["data_dir was given, so nothing is downloaded"]
    elif os.environ.get("DITHER_OFFLINE", "0") not in ("", "0"):
        failures = ["DITHER_OFFLINE is set, so nothing is downloaded"]
    elif not mirrors:
        failures = ["no mirror has it"]
    else:
        failures = _download(name, sha256, mirrors, folders[-1] / name)
        if not failures:
            return folders[-1] / name
    dataset = name.partition("/")[0]
    download = (
        ", or, with a network, download it into the cache: "
        f"DITHER_OFFLINE=0 python -c \"import dither; dither.data.load('{dataset}')\""
    )
    raise FileNotFoundError(
        f"no {name} in {' or '.join(map(str, folders))} ({'; '.join(failures)}). "
        f"Set DITHER_DATA (or data_dir, --data-dir) to a folder that holds {dataset}/{download if mirrors else ''}"
    )


def _default_folders() -> list[Path]:
    named = os.environ.get("DITHER_DATA", "")
    return [*([Path(named).expanduser()] if named else []), cache_dir()]


def _download(name: str, sha256: str, mirrors: Sequence[str], target: Path) -> list[str]:
    """Tries each mirror in turn. Returns the reasons why each failed; none if the file is there now."""
    from torch.hub import download_url_to_file

    progress = sys.stderr is not None and sys.stderr.isatty() and not os.environ.get("DITHER_NO_PROGRESS")
    failures = []
    for mirror in mirrors:
        url = mirror + name.rpartition("/")[2]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _socket_timeout(TIMEOUT):
                # Writes beside the target, verifies the whole hash, then renames: whole or absent.
                download_url_to_file(url, str(target), hash_prefix=sha256, progress=progress)
            return []
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            failures.append(f"{url}: {error}")
    return failures


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torch's download sets no timeout of its own: a silent mirror would hold the program for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
