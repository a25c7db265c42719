"""Binarized MNIST: the parser on a small file, and the facts of the real one where it is at hand."""

import io
import os

import numpy as np
import pytest
import torch

from dither import data
from dither.data._binarized_mnist import SIZES, parse_binarized_mnist

SMALL = {"train": 5, "valid": 2, "test": 3}


def pixels():
    random = np.random.default_rng(2008)
    return {part: random.integers(0, 2, (count, 784), dtype=np.uint8) for part, count in SMALL.items()}


def packed(**changes):
    file = io.BytesIO()
    np.savez(file, **({part: np.packbits(x, axis=1) for part, x in pixels().items()} | changes))
    return file.getvalue()


def test_each_bit_becomes_a_pixel():
    dataset = parse_binarized_mnist(packed(), "f", SMALL)
    for part, x in pixels().items():
        split = getattr(dataset, part)
        assert torch.equal(split.x, torch.tensor(x).float()) and split.x.dtype == torch.float32
        assert torch.equal(split.y, torch.zeros(len(x), dtype=torch.int64))
    assert (dataset.name, dataset.shape, dataset.classes) == ("binarized_mnist", (1, 28, 28), 1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"valid": np.zeros((3, 98), np.uint8)}, r"images of 784 packed bits, .*found .*'valid': \(3, 98\)"),
        ({"test": np.zeros((3, 784), np.uint8)}, r"'test': \(3, 784\)"),  # not packed
        ({"train": np.zeros((5, 98), bool)}, "train of type bool"),
        ({"train_y": np.zeros(5, np.uint8)}, "members"),
        ({"train": np.array([{}], dtype=object)}, "Object arrays cannot be loaded"),
    ],
)
def test_refuses(changes, says):
    with pytest.raises(data.CorruptData, match=says):
        parse_binarized_mnist(packed(**changes), "binarized_mnist_packbits.npz", SMALL)


def test_a_file_cut_short_is_refused():
    with pytest.raises(data.CorruptData, match="BadZipFile"):
        parse_binarized_mnist(packed()[:-30], "binarized_mnist_packbits.npz", SMALL)


def test_without_the_file_no_download_is_offered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DITHER_DATA", raising=False)
    monkeypatch.setenv("DITHER_OFFLINE", "0")
    with pytest.raises(FileNotFoundError, match=r"binarized_mnist_packbits\.npz in .*no mirror has it.*DITHER_DATA") as caught:
        data.load("binarized_mnist")
    assert "download it" not in str(caught.value) and not (tmp_path / "cache").exists()
    (tmp_path / "binarized_mnist").mkdir()
    (tmp_path / "binarized_mnist" / "binarized_mnist_packbits.npz").write_bytes(packed())
    with pytest.raises(data.CorruptData, match="sha256 df14a884"):
        data.load("binarized_mnist", tmp_path)


@pytest.mark.skipif(
    not os.environ.get("DITHER_DATA"),
    reason="DITHER_DATA names no folder of data; nothing is downloaded in tests",
)
def test_known_facts():
    dataset = data.load("binarized_mnist")
    assert {part: len(getattr(dataset, part)) for part in SIZES} == SIZES
    for part in SIZES:
        x = getattr(dataset, part).x
        assert torch.equal(x.unique(), torch.tensor([0.0, 1.0])) and abs(x.mean() - 0.131) < 0.002
        centre, border = x.view(-1, 28, 28)[:, 10:18, 10:18].mean(), x.view(-1, 28, 28)[:, :2].mean()
        assert centre > 0.35 and border < 1e-3  # bits in the right order: digits in the middle, nothing at the edge

    # The pixels of the grey images are its probabilities: the mean images agree up to the noise of the draws.
    grey = data.load("mnist")
    grey_mean = (55 * grey.train.x.mean(0) + 5 * grey.valid.x.mean(0)) / 60
    mean = (5 * dataset.train.x.mean(0) + dataset.valid.x.mean(0)) / 6
    assert ((mean - grey_mean).abs() < 6 * (0.25 / 60_000) ** 0.5).all()
