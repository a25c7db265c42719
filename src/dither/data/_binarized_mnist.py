"""MNIST binarized once and for all: the images on which density models are compared."""

import os
from collections.abc import Mapping

import numpy as np
import torch

from dither.data._errors import CorruptData
from dither.data._npz import read_npz
from dither.data._store import read_verified
from dither.data._types import Dataset, Split

FILE = "binarized_mnist/binarized_mnist_packbits.npz"
SHA256 = "df14a884cb4aa7ac6692463fb31798a687c4e762c73c23a8ae3114fbec4e6093"
SIZES = {"train": 50_000, "valid": 10_000, "test": 10_000}
PIXELS = 784


def binarized_mnist(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Binarized MNIST: 50,000 / 10,000 / 10,000 images of 28 x 28 zeros and ones; no labels, `y` is 0 throughout.

    Each pixel was sampled once: one with a probability equal to its grey level in MNIST. The samples and the split are
    fixed, so that log-likelihoods are comparable. The images are not in MNIST's order.

    Looked for in `data_dir` alone if given, else in $DITHER_DATA, then in the user's cache, as the file
    `binarized_mnist/binarized_mnist_packbits.npz` with the uint8 arrays `train`, `valid`, `test` (n, 98): eight pixels
    a byte, the first in the highest bit. There is no mirror to download it from. Its sha256 is verified.

    Raises FileNotFoundError, naming the file and the folders tried, and CorruptData.
    Source: Salakhutdinov and Murray 2008, "On the quantitative analysis of deep belief networks"; derived from MNIST.
    """
    return parse_binarized_mnist(*read_verified(FILE, SHA256, (), data_dir))


def parse_binarized_mnist(packed: bytes, file: str, sizes: Mapping[str, int] = SIZES) -> Dataset:
    """The data set in the bytes of binarized_mnist_packbits.npz; `sizes` says how many images each part has."""
    arrays = read_npz(packed, file, tuple(sizes))
    shapes = {name: array.shape for name, array in arrays.items()}
    expected = {name: (count, PIXELS // 8) for name, count in sizes.items()}
    if shapes != expected:
        raise CorruptData(file, f"images of {PIXELS} packed bits, {expected}", f"{shapes}")
    train, valid, test = (unpack(arrays[part]) for part in ("train", "valid", "test"))
    return Dataset("binarized_mnist", train, valid, test, shape=(1, 28, 28), classes=1)


def unpack(bits: np.ndarray) -> Split:
    """(n, 98) bytes as (n, 784) zeros and ones, without labels."""
    x = torch.from_numpy(np.unpackbits(bits, axis=1, count=PIXELS)).float()
    return Split(x, torch.zeros(len(x), dtype=torch.int64, device="cpu"))
