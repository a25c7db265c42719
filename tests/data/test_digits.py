import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dither import data
from dither.data._digits import FILE, SHA256, parse_digits
from dither.data._npz import read_npz


def embedded() -> bytes:
    from importlib import resources

    return (resources.files("dither.data") / FILE).read_bytes()


def test_the_arrays_are_those_of_scikit_learn():
    ours = read_npz(embedded(), FILE, ("pixels", "labels", "part"))
    theirs = load_digits()
    assert np.array_equal(ours["pixels"], theirs.data)
    assert np.array_equal(ours["labels"], theirs.target)


def test_each_example_is_in_one_part_and_scaled_by_16():
    digits, theirs = data.digits(), load_digits()
    part = read_npz(embedded(), FILE, ("pixels", "labels", "part"))["part"]
    for index, split in enumerate((digits.train, digits.valid, digits.test)):
        assert torch.equal(split.x, torch.tensor(theirs.data[part == index] / 16, dtype=torch.float32))
        assert torch.equal(split.y, torch.tensor(theirs.target[part == index]))
    assert set(np.unique(part)) == {0, 1, 2}


def test_shapes_types_and_range():
    digits = data.digits()
    assert [len(s) for s in (digits.train, digits.valid, digits.test)] == [1197, 300, 300]
    assert (digits.shape, digits.classes, digits.name) == ((1, 8, 8), 10, "digits")
    for split in (digits.train, digits.valid, digits.test):
        assert split.x.shape == (len(split), 64)
        assert split.x.dtype == torch.float32 and split.y.dtype == torch.int64
        assert split.x.min() == 0 and split.x.max() == 1
        assert split.x.is_contiguous()


def test_the_split_is_stratified():
    digits = data.digits()
    counts = torch.stack([s.y.bincount(minlength=10) for s in (digits.train, digits.valid, digits.test)])
    share = counts.sum(0) * torch.tensor([[1197], [300], [300]]) / 1797
    assert (counts - share).abs().max() < 2


def test_a_damaged_file_says_what_to_do():
    packed = bytearray(embedded())
    packed[1000] ^= 1
    with pytest.raises(data.CorruptData, match=rf"digits\.npz.*{SHA256}.*reinstall dither"):
        parse_digits(bytes(packed))


def test_two_loads_are_independent():
    digits = data.digits()
    digits.train.x.zero_()
    assert data.digits().train.x.sum() > 0


def test_load_by_name():
    assert torch.equal(data.load("digits").test.x, data.digits().test.x)
    with pytest.raises(ValueError, match=r"no data set 'minst'.*digits, mnist, fashion_mnist"):
        data.load("minst")
