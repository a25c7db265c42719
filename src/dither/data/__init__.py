"""Data sets with a fixed split, verified at every load.

>>> from dither import data
>>> digits = data.digits()
>>> digits.train
Split(1,197 x 64)
>>> digits.train.x.view(-1, *digits.shape).shape
torch.Size([1197, 1, 8, 8])
"""

import os

from dither.data._binarized_mnist import binarized_mnist
from dither.data._digits import digits
from dither.data._errors import CorruptData
from dither.data._frey_faces import frey_faces
from dither.data._mnist import fashion_mnist, mnist
from dither.data._omniglot import omniglot
from dither.data._types import Dataset, Split

__all__ = [
    "NAMES",
    "CorruptData",
    "Dataset",
    "Split",
    "binarized_mnist",
    "digits",
    "fashion_mnist",
    "frey_faces",
    "load",
    "mnist",
    "omniglot",
]

NAMES = ("digits", "mnist", "fashion_mnist", "omniglot", "binarized_mnist", "frey_faces")


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """The data set called `name`, one of `NAMES`.

    `data_dir` is the folder that holds a folder of its files (`digits` is embedded and needs none): `name`, but for
    `frey_faces` it is `freyfaces`. `binarized_mnist` and `frey_faces` have no labels.
    Raises ValueError for another name, FileNotFoundError for a missing file, CorruptData for a damaged one.
    """
    match name:
        case "digits":
            return digits()
        case "mnist":
            return mnist(data_dir)
        case "fashion_mnist":
            return fashion_mnist(data_dir)
        case "omniglot":
            return omniglot(data_dir)
        case "binarized_mnist":
            return binarized_mnist(data_dir)
        case "frey_faces":
            return frey_faces(data_dir)
    raise ValueError(f"there is no data set {name!r}; choose one of {', '.join(NAMES)}")
