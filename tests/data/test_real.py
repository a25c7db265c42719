"""The real MNIST and Fashion-MNIST, where a folder of them is at hand."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from dither import data

pytestmark = pytest.mark.skipif(
    not os.environ.get("DITHER_DATA"),
    reason="DITHER_DATA names no folder of data; nothing is downloaded in tests",
)

# name -> mean pixel of the 60,000, first labels of training, of test (as published)
FACTS = {
    "mnist": (0.1307, [5, 0, 4, 1, 9, 2, 1, 3, 1, 4], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]),
    "fashion_mnist": (0.2860, [9, 0, 0, 3, 0, 2, 7, 2, 5, 5], [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]),
}


@pytest.mark.parametrize("name", FACTS)
def test_known_facts(name):
    mean, first, first_test = FACTS[name]
    dataset = data.load(name)
    train, valid, test = dataset.train, dataset.valid, dataset.test
    assert [len(part) for part in (train, valid, test)] == [55_000, 5_000, 10_000]
    assert (dataset.name, dataset.shape, dataset.classes) == (name, (1, 28, 28), 10)
    assert abs((train.x.mean() * 55 + valid.x.mean() * 5).item() / 60 - mean) < 5e-5
    assert train.y[:10].tolist() == first and test.y[:10].tolist() == first_test
    assert train.x.min() == 0 and train.x.max() == 1

    raw = gzip.decompress((Path(os.environ["DITHER_DATA"]) / name / "train-images-idx3-ubyte.gz").read_bytes())
    last = torch.tensor(np.frombuffer(raw[-5_000 * 784 :], np.uint8).reshape(5_000, 784).copy())
    assert torch.equal((valid.x * 255).round().to(torch.uint8), last)  # validation is the last 5,000
