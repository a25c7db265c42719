"""Omniglot: handwritten characters of fifty alphabets, reduced to 28 x 28."""

import os

import numpy as np
import torch

from dither.data._errors import CorruptData
from dither.data._npz import read_npz
from dither.data._store import read_verified
from dither.data._types import Dataset, Split

FILE = "omniglot/omniglot28.npz"
SHA256 = "a53c3943aea2ee51cf3479cc379e58dc6887a62010e35f0ab1752dd2c96a4afe"
DRAWERS, VALID = 20, 2  # drawings of each character, and how many of them, the last, are the validation part
CHARACTERS = {"background": 964, "evaluation": 659}
KINDS = {"background_char": "int16", "evaluation_char": "int16"}


def omniglot(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Omniglot: 17,352 / 1,928 / 13,180 drawings of 964 characters, the test part of 659 others; ink is 1.

    The train and validation parts are the authors' background set: of the twenty drawings of each character
    the last two validate. The test part is their evaluation set, characters 964 to 1,622 of alphabets that
    occur in no other part: for density models and few-shot learning, not for classification.

    The drawings are averages over areas of the 105 x 105 originals. They are not the 28 x 28 images of Burda et al.,
    which many papers on autoencoders use (mixed, 24,345 / 8,070): likelihoods are not comparable with theirs.

    Looked for in `data_dir` alone if given, else in $DITHER_DATA, then in the user's cache, as the file
    `omniglot/omniglot28.npz` with the uint8 arrays `background`, `evaluation` (n, 28, 28) and the int16 arrays
    `background_char`, `evaluation_char` (n,). There is no mirror to download it from. Its sha256 is verified.

    Raises FileNotFoundError, naming the file and the folders tried, and CorruptData.
    Source: Lake, Salakhutdinov and Tenenbaum 2015, "Human-level concept learning"; MIT licence.
    """
    return parse_omniglot(*read_verified(FILE, SHA256, (), data_dir))


def parse_omniglot(packed: bytes, file: str, characters: dict[str, int] = CHARACTERS) -> Dataset:
    """The data set in the bytes of omniglot28.npz; `characters` says how many each of its two sets has."""
    arrays = read_npz(packed, file, tuple(n + end for n in characters for end in ("", "_char")), kinds=KINDS)
    parts = {}
    for name, count in characters.items():
        images, labels = arrays[name], arrays[f"{name}_char"]
        if images.shape != (count * DRAWERS, 28, 28) or not np.array_equal(labels, np.arange(count).repeat(DRAWERS)):
            expected = f"{DRAWERS} images of 28 x 28 of each of {count} characters in {name}, in order"
            raise CorruptData(file, expected, f"images {images.shape}, labels {labels.shape}")
        x = torch.from_numpy(np.divide(images.reshape(len(images), -1), np.float32(255), dtype=np.float32))
        parts[name] = x, torch.from_numpy(labels.astype(np.int64))
    x, y = parts["background"]
    held = torch.arange(len(y), dtype=torch.int64, device="cpu") % DRAWERS >= DRAWERS - VALID
    ink, label = parts["evaluation"]
    first = characters["background"]
    return Dataset(
        name="omniglot",
        train=Split(x[~held], y[~held]),
        valid=Split(x[held], y[held]),
        test=Split(ink, label + first),
        shape=(1, 28, 28),
        classes=sum(characters.values()),
    )
