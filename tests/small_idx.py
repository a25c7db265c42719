"""A data set of four small IDX files, for tests that damage them."""

import gzip
import hashlib
import struct

import numpy as np

from dither.data._mnist import FILES, IdxSource

IMAGE, TRAIN, VALID, TEST, CLASSES = (5, 4), 12, 3, 6, 10


def idx(array: np.ndarray) -> bytes:
    """The IDX bytes of a uint8 array, not packed."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def gz(raw: bytes) -> bytes:
    return gzip.compress(raw, mtime=0)


def small_arrays() -> list[np.ndarray]:
    """Train images, train labels, test images, test labels."""
    random = np.random.default_rng(2013)
    arrays = []
    for n in (TRAIN, TEST):
        arrays += [
            random.integers(0, 256, (n, *IMAGE), dtype=np.uint8),
            np.arange(n, dtype=np.uint8) % CLASSES,
        ]
    return arrays


def small_files() -> dict[str, bytes]:
    return {file: gz(idx(array)) for file, array in zip(FILES, small_arrays(), strict=True)}


def small_source(files: dict[str, bytes], mirrors: tuple[str, ...] = ()) -> IdxSource:
    hashes = tuple(hashlib.sha256(files[file]).hexdigest() for file in FILES)
    return IdxSource("small", mirrors, hashes, valid=VALID, image=IMAGE, classes=CLASSES)


def write(files: dict[str, bytes], folder) -> None:
    (folder / "small").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / "small" / name).write_bytes(content)
