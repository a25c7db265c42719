"""Frey faces: the parser on a small file, the split in blocks, and the real file where it is at hand."""

import io
import os

import numpy as np
import pytest
import torch

from dither import data
from dither.data._frey_faces import FRAMES, parse_frey_faces, split

SMALL = 520


def video(frames=SMALL):
    return np.random.default_rng(1965).integers(0, 256, (frames, 560), dtype=np.uint8)


def packed(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_blocks_are_held_out_with_a_gap_around_them():
    frames = video()
    dataset = parse_frey_faces(packed(X=frames), "f", SMALL)
    x = torch.tensor(frames) / 255
    assert torch.equal(dataset.valid.x, x[100:150]) and torch.equal(dataset.test.x, x[350:400])
    assert torch.equal(dataset.train.x, torch.cat([x[:95], x[155:345], x[405:]]))
    assert (dataset.name, dataset.shape, dataset.classes) == ("frey_faces", (1, 28, 20), 1)
    for part in (dataset.train, dataset.valid, dataset.test):
        assert part.x.dtype == torch.float32 and torch.equal(part.y, torch.zeros(len(part), dtype=torch.int64))


def test_no_frame_is_in_two_parts_and_none_trains_beside_a_held_one():
    parts = split(FRAMES)
    train, valid, test = (set(part.tolist()) for part in parts)
    assert [len(part) for part in parts] == [len(train), len(valid), len(test)] == [1485, 200, 200]
    unused = set(range(FRAMES)) - train - valid - test
    assert len(unused) == FRAMES - 1485 - 400  # together with the line above: the parts do not overlap
    held = torch.cat(parts[1:])
    assert (parts[0][:, None] - held).abs().min() == 6
    for part in (valid, test):  # spread over the video
        assert all(any(500 * k <= frame < 500 * (k + 1) for frame in part) for k in range(4))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"X": video(SMALL - 1)}, r"520 frames of 560 pixels, X \(520, 560\), found \(519, 560\)"),
        ({"X": video().reshape(SMALL, 28, 20)}, r"found \(520, 28, 20\)"),
        ({"X": video().T.copy()}, r"found \(560, 520\)"),
        ({"X": video() / 255}, "X of type float64"),
        ({"X": video(), "more": video()}, "members"),
        ({"x": video()}, "members"),
        ({"X": np.array([{}], dtype=object)}, "Object arrays cannot be loaded"),
    ],
)
def test_refuses(content, says):
    with pytest.raises(data.CorruptData, match=says):
        parse_frey_faces(packed(**content), "freyfaces.npz", SMALL)


def test_a_file_cut_short_or_with_a_flipped_bit_is_refused():
    whole = packed(X=video())
    with pytest.raises(data.CorruptData, match="BadZipFile"):
        parse_frey_faces(whole[: len(whole) // 2], "freyfaces.npz", SMALL)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    with pytest.raises(data.CorruptData, match="CRC"):
        parse_frey_faces(bytes(flipped), "freyfaces.npz", SMALL)


def test_without_the_file_no_download_is_offered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DITHER_DATA", raising=False)
    monkeypatch.setenv("DITHER_OFFLINE", "0")
    with pytest.raises(FileNotFoundError, match=r"no freyfaces/freyfaces\.npz in .*no mirror.*holds freyfaces/$") as caught:
        data.load("frey_faces")
    assert "download it" not in str(caught.value) and not (tmp_path / "cache").exists()
    (tmp_path / "freyfaces").mkdir()
    (tmp_path / "freyfaces" / "freyfaces.npz").write_bytes(packed(X=video(FRAMES)))
    with pytest.raises(data.CorruptData, match="sha256 7d46496c"):
        data.load("frey_faces", tmp_path)


@pytest.mark.skipif(
    not os.environ.get("DITHER_DATA"),
    reason="DITHER_DATA names no folder of data; nothing is downloaded in tests",
)
def test_known_facts():
    dataset = data.load("frey_faces")
    assert [len(part) for part in (dataset.train, dataset.valid, dataset.test)] == [1485, 200, 200]
    for part in (dataset.train, dataset.valid, dataset.test):
        assert part.x.min() >= 8 / 255 and part.x.max() <= 238 / 255 and 0.59 < part.x.mean() < 0.62
        step = (part.x[1:50] - part.x[:49]).square().mean(1).sqrt()
        assert step.max() < 0.2 and step.mean() < 0.1  # a video: what follows resembles what was before

    # 28 rows of 20: pixels above each other resemble each other, as they would not in 20 rows of 28.
    faces = dataset.train.x.view(-1, *dataset.shape)[:, 0]
    across = (faces[:, 1:] - faces[:, :-1]).abs().mean()
    wrong = dataset.train.x.view(-1, 20, 28)
    assert across < 0.7 * (wrong[:, 1:] - wrong[:, :-1]).abs().mean()

    # What the split is for: a held-out frame is further from training than under a random split.
    mixed = torch.cat([dataset.train.x, dataset.valid.x, dataset.test.x])
    order = torch.randperm(len(mixed), generator=torch.Generator().manual_seed(0))
    random = torch.cdist(mixed[order[:400]], mixed[order[400:]]).min(1).values.median()
    held = torch.cdist(torch.cat([dataset.valid.x, dataset.test.x]), dataset.train.x).min(1).values.median()
    assert held > 1.3 * random
