"""MNIST and Fashion-MNIST: 60,000 + 10,000 grey images of 28 x 28 in ten classes, from the original files."""

import os
from dataclasses import dataclass

import numpy as np
import torch

from dither.data._errors import CorruptData
from dither.data._idx import read_idx
from dither.data._store import read_verified
from dither.data._types import Dataset, Split


@dataclass(frozen=True)
class IdxSource:
    """A data set of four IDX files; `sha256` is in the order of `FILES`."""

    name: str
    mirrors: tuple[str, ...]
    sha256: tuple[str, str, str, str]
    valid: int  # how many examples of the training files, the last ones, are the validation part
    image: tuple[int, int] = (28, 28)
    classes: int = 10


FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)

MNIST = IdxSource(
    name="mnist",
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    sha256=(
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    valid=5_000,
)

FASHION_MNIST = IdxSource(
    name="fashion_mnist",
    mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
    sha256=(
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    valid=5_000,
)


def mnist(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """MNIST: 55,000 / 5,000 / 10,000 handwritten digits; the validation part is the last 5,000 of training.

    Looked for in `data_dir` alone if given, else in $DITHER_DATA, then in the user's cache, else downloaded
    into the cache; the four files lie in a folder `mnist/`. Their sha256 is verified at every load.

    Raises FileNotFoundError, naming the file and the folders tried, and CorruptData.
    Source: LeCun, Bottou, Bengio and Haffner 1998; CC BY-SA 3.0.
    """
    return load_idx(MNIST, data_dir)


def fashion_mnist(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Fashion-MNIST: 55,000 / 5,000 / 10,000 pictures of clothes; as `mnist`, in a folder `fashion_mnist/`.

    Source: Xiao, Rasul and Vollgraf 2017; MIT licence.
    """
    return load_idx(FASHION_MNIST, data_dir)


def load_idx(source: IdxSource, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Read, verify and split the four files of `source`."""
    packed = [
        read_verified(f"{source.name}/{file}", sha256, source.mirrors, data_dir)
        for file, sha256 in zip(FILES, source.sha256, strict=True)
    ]
    learn = parse_pair(*packed[0], *packed[1], source)
    cut = len(learn) - source.valid
    return Dataset(
        name=source.name,
        train=Split(learn.x[:cut], learn.y[:cut]),
        valid=Split(learn.x[cut:], learn.y[cut:]),
        test=parse_pair(*packed[2], *packed[3], source),
        shape=(1, *source.image),
        classes=source.classes,
    )


def parse_pair(images: bytes, images_file: str, labels: bytes, labels_file: str, source: IdxSource) -> Split:
    """A file of images and its file of labels, as tensors. CorruptData if they do not belong together."""
    x = read_idx(images, images_file, source.image)
    y = read_idx(labels, labels_file)
    if len(x) != len(y):
        raise CorruptData(labels_file, f"{len(x):,} labels, one for each image of {images_file}", f"{len(y):,}")
    if len(y) and y.max() >= source.classes:
        at = int(np.argmax(y >= source.classes))
        raise CorruptData(labels_file, f"labels from 0 to {source.classes - 1}", f"{y[at]} at index {at}")
    pixels = np.divide(x.reshape(len(x), -1), np.float32(255), dtype=np.float32)
    return Split(torch.from_numpy(pixels), torch.from_numpy(y.astype(np.int64)))
