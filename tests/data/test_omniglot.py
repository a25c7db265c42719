"""Omniglot: the parser on a small file, and the facts of the real one where it is at hand."""

import io
import os
import zipfile

import numpy as np
import pytest
import torch

from dither import data
from dither.data._omniglot import CHARACTERS, DRAWERS, parse_omniglot

SMALL = {"background": 3, "evaluation": 2}


def arrays(kind="int16", **more):
    random = np.random.default_rng(2015)
    content = {}
    for name, count in SMALL.items():
        content[name] = random.integers(0, 256, (count * DRAWERS, 28, 28), dtype=np.uint8)
        content[f"{name}_char"] = np.arange(count).repeat(DRAWERS).astype(kind)
    return content | more


def packed(content):
    file = io.BytesIO()
    np.savez(file, **content)
    return file.getvalue()


def test_the_last_two_drawings_of_each_character_validate():
    content = arrays()
    dataset = parse_omniglot(packed(content), "f", SMALL)
    x = torch.tensor(content["background"]).reshape(3, 20, 784) / 255
    assert torch.equal(dataset.train.x, x[:, :18].flatten(0, 1)) and torch.equal(dataset.valid.x, x[:, 18:].flatten(0, 1))
    assert torch.equal(dataset.train.y, torch.arange(3).repeat_interleave(18))
    assert torch.equal(dataset.valid.y, torch.arange(3).repeat_interleave(2))
    assert torch.equal(dataset.test.x, torch.tensor(content["evaluation"]).flatten(1) / 255)
    assert torch.equal(dataset.test.y, torch.arange(3, 5).repeat_interleave(20))  # other characters, other numbers
    assert (dataset.name, dataset.shape, dataset.classes) == ("omniglot", (1, 28, 28), 5)
    assert dataset.train.x.dtype == torch.float32 and dataset.train.y.dtype == torch.int64


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (arrays("int64"), "background_char of type int64"),
        (arrays(background=arrays()["background"][:-1]), "20 images of 28 x 28 of each of 3 characters in background"),
        (arrays(evaluation=arrays()["evaluation"][:, :-1]), r"in evaluation, in order, found images \(40, 27, 28\)"),
        (arrays(background_char=arrays()["background_char"][::-1].copy()), "in order"),
        (arrays(more=arrays()["background"]), "members"),
        (arrays(background=np.array([{}], dtype=object)), "Object arrays cannot be loaded"),
    ],
)
def test_refuses(content, says):
    with pytest.raises(data.CorruptData, match=says):
        parse_omniglot(packed(content), "omniglot28.npz", SMALL)


def test_a_file_cut_short_is_refused():
    whole = packed(arrays())
    with pytest.raises(data.CorruptData, match="BadZipFile"):
        parse_omniglot(whole[: len(whole) // 2], "omniglot28.npz", SMALL)
    assert zipfile.is_zipfile(io.BytesIO(whole))


def test_without_the_file_no_download_is_offered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DITHER_DATA", raising=False)
    monkeypatch.setenv("DITHER_OFFLINE", "0")
    with pytest.raises(FileNotFoundError, match=r"no omniglot/omniglot28\.npz in .*no mirror has it.*DITHER_DATA") as caught:
        data.load("omniglot")
    assert "download it" not in str(caught.value) and not (tmp_path / "cache").exists()
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / "omniglot28.npz").write_bytes(packed(arrays()))
    with pytest.raises(data.CorruptData, match="sha256 a53c3943"):
        data.omniglot(tmp_path)


@pytest.mark.skipif(
    not os.environ.get("DITHER_DATA"),
    reason="DITHER_DATA names no folder of data; nothing is downloaded in tests",
)
def test_known_facts():
    dataset = data.load("omniglot")
    assert [len(part) for part in (dataset.train, dataset.valid, dataset.test)] == [17_352, 1_928, 13_180]
    assert sum(CHARACTERS.values()) == dataset.classes == 1623
    assert torch.equal(dataset.train.y.unique(), torch.arange(964)) and torch.equal(
        dataset.test.y.unique(), torch.arange(964, 1623)
    )
    for part in (dataset.train, dataset.valid, dataset.test):
        assert part.x.min() == 0 and part.x.max() == 1 and 0.07 < part.x.mean() < 0.09  # ink is 1, and rare
