"""Frey faces: a video of one face, split in blocks of consecutive frames."""

import os

import numpy as np
import torch

from dither.data._errors import CorruptData
from dither.data._npz import read_npz
from dither.data._store import read_verified
from dither.data._types import Dataset, Split

FILE = "freyfaces/freyfaces.npz"
SHA256 = "7d46496ce4b919a8831ba4fa1a5d6b595b7d624c022e11fdf30468fae3ada250"
FRAMES = 1965
HEIGHT, WIDTH = 28, 20
BLOCK, CYCLE, VALID, TEST = 50, 10, 2, 7  # of every ten blocks of 50 frames the third validates, the eighth tests
GAP = 5  # frames beside a held-out block that are left out of training


def frey_faces(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Frey faces: 1,485 / 200 / 200 grey frames of 28 x 20 from a video of one face; no labels, `y` is 0 throughout.

    Neighbouring frames are near duplicates, so a random split would test on what was trained on. Here frames are held
    out in blocks of 50 consecutive ones spread over the video: with frame i (from 0) in block i // 50, blocks 2, 12, 22
    and 32 are the validation part, 7, 17, 27 and 37 the test part. The five frames on either side of such a block, 80
    in all, are in no part: they would bring near duplicates back across its ends. The other 1,485 are the training
    part. Every part keeps the order of the video. A pixel is divided by 255. Published figures are mostly of random
    splits, and are not comparable.

    Looked for in `data_dir` alone if given, else in $DITHER_DATA, then in the user's cache, as the file
    `freyfaces/freyfaces.npz` with the uint8 array `X` (1965, 560), a frame a row, its pixels row by row from the top.
    There is no mirror to download it from. Its sha256 is verified.

    Raises FileNotFoundError, naming the file and the folders tried, and CorruptData.
    Source: B. Frey's video, as in Roweis and Saul 2000, "Nonlinear dimensionality reduction by locally linear
    embedding"; no licence is stated.
    """
    return parse_frey_faces(*read_verified(FILE, SHA256, (), data_dir))


def parse_frey_faces(packed: bytes, file: str, frames: int = FRAMES) -> Dataset:
    """The data set in the bytes of freyfaces.npz; `frames` says how many the video has."""
    video = read_npz(packed, file, ("X",))["X"]
    if video.shape != (frames, HEIGHT * WIDTH):
        raise CorruptData(file, f"{frames:,} frames of {HEIGHT * WIDTH} pixels, X {(frames, HEIGHT * WIDTH)}", f"{video.shape}")
    x = torch.from_numpy(np.divide(video, np.float32(255), dtype=np.float32))
    train, valid, test = (
        Split(part, torch.zeros(len(part), dtype=torch.int64, device="cpu")) for part in (x[i] for i in split(frames))
    )
    return Dataset("frey_faces", train, valid, test, shape=(1, HEIGHT, WIDTH), classes=1)


def split(frames: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The numbers of the frames to train, to validate and to test on, each in order."""
    frame = torch.arange(frames, dtype=torch.int64, device="cpu")
    near = held(frame - GAP, VALID, TEST) | held(frame, VALID, TEST) | held(frame + GAP, VALID, TEST)
    return frame[~near], frame[held(frame, VALID)], frame[held(frame, TEST)]


def held(frame: torch.Tensor, *blocks: int) -> torch.Tensor:
    """Whether each frame lies in one of these blocks of a cycle."""
    return torch.isin(frame // BLOCK % CYCLE, torch.tensor(blocks, dtype=torch.int64, device="cpu"))
