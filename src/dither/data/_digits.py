"""The digits of the UCI repository, embedded: real data that is there at once, without a network."""

import hashlib
from importlib import resources

import numpy as np
import torch

from dither.data._errors import CorruptData
from dither.data._npz import read_npz
from dither.data._types import Dataset, Split

FILE = "digits.npz"
SHA256 = "26bd175c8f0fe90902601bd2e785c45b41b829be8f6ecdb19558bd0ab92a03ac"
REMEDY = "reinstall dither"


def digits() -> Dataset:
    """1,797 handwritten digits of 8 x 8 in ten classes: 1,197 / 300 / 300 in a fixed, stratified split.

    A pixel counts the ink in a block of 4 x 4 bits, from 0 to 16, and is divided by 16 here. The arrays are
    those of scikit-learn's `load_digits`; the split is stored with them, so it is the same for ever: in a
    random order within each class, every sixth example is for testing and the one after it for validation.

    Raises CorruptData if the embedded file is damaged.
    Source: E. Alpaydin and C. Kaynak 1998, "Optical Recognition of Handwritten Digits" (the test part), UCI
    Machine Learning Repository, https://doi.org/10.24432/C50P49; CC BY 4.0.
    """
    return parse_digits((resources.files("dither.data") / FILE).read_bytes())


def parse_digits(packed: bytes, sha256: str = SHA256) -> Dataset:
    """The data set in the bytes of digits.npz, verified first."""
    actual = hashlib.sha256(packed).hexdigest()
    if actual != sha256:
        raise CorruptData(FILE, f"sha256 {sha256}", actual, REMEDY)
    arrays = read_npz(packed, FILE, ("pixels", "labels", "part"), REMEDY)
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != {"pixels": (1797, 64), "labels": (1797,), "part": (1797,)}:
        raise CorruptData(FILE, "1,797 examples of 64 pixels", f"{shapes}", REMEDY)
    x = torch.from_numpy(arrays["pixels"].astype(np.float32) / 16)
    y = torch.from_numpy(arrays["labels"].astype(np.int64))
    part = torch.from_numpy(arrays["part"])
    train, valid, test = (Split(x[part == index], y[part == index]) for index in range(3))
    return Dataset("digits", train, valid, test, shape=(1, 8, 8), classes=10)
