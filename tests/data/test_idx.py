"""The parsers alone, without a hash before them: they must hold whatever reaches them."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from dither.data import CorruptData
from dither.data._idx import read_idx
from dither.data._npz import read_npz
from small_idx import gz, idx, small_arrays

IMAGES = small_arrays()[0]
RAW = idx(IMAGES)


def test_reads_what_was_written():
    assert np.array_equal(read_idx(gz(RAW), "f", (5, 4)), IMAGES)
    assert np.array_equal(read_idx(gz(idx(np.arange(7, dtype=np.uint8))), "f"), np.arange(7))
    assert read_idx(gz(idx(np.zeros((0, 5, 4), np.uint8))), "f", (5, 4)).shape == (0, 5, 4)


def header(*dims: int, magic: tuple[int, ...] = (0, 0, 8, 3)) -> bytes:
    return bytes(magic) + struct.pack(f">{len(dims)}I", *dims)


@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (b"", "a header of 16 bytes, found 0"),
        (gz(b""), "a header of 16 bytes, found 0"),
        (gz(RAW[:15]), "a header of 16 bytes, found 15"),
        (RAW, "a gzip stream"),
        (gz(header(12, 5, 4, magic=(0, 0, 9, 3)) + RAW[16:]), "magic number 00000803, found 00000903"),
        (gz(header(12, 5, 4, magic=(0, 0, 8, 1)) + RAW[16:]), "magic number 00000803, found 00000801"),
        (gz(header(12, 4, 5) + RAW[16:]), r"dimensions \('n', 5, 4\), found \(12, 4, 5\)"),
        (gz(header(11, 5, 4) + RAW[16:]), "220 bytes that its header declares, found more than 220"),
        (gz(header(13, 5, 4) + RAW[16:]), "260 bytes that its header declares, found 240"),
        (gz(header(0, 5, 4) + RAW[16:]), "0 bytes that its header declares, found more than 0"),
        (gz(RAW)[:-1], "a whole gzip stream, found its end missing"),
        (gz(RAW)[:-9], "found|gzip"),
        (gz(RAW) + b"\0", "nothing after the gzip stream, found 1 bytes more"),
        (gz(RAW) + gz(RAW), "nothing after the gzip stream"),
        (gz(RAW)[:-6] + b"\1\2" + gz(RAW)[-4:], "incorrect data check"),
        (gz(RAW)[:-4] + b"\1\0\0\0", "incorrect length check"),
    ],
)
def test_refuses(packed, says):
    with pytest.raises(CorruptData, match=says) as caught:
        read_idx(packed, "train-images.gz", (5, 4))
    assert caught.value.file == "train-images.gz"
    assert "train-images.gz" in str(caught.value) and "delete it" in str(caught.value)


def test_a_declared_gigabyte_is_refused_before_it_is_unpacked():
    with pytest.raises(CorruptData, match="at most 1,073,741,824 bytes, found a header declaring 85,899,345,900"):
        read_idx(gz(header(2**32 - 1, 5, 4)), "bomb.gz", (5, 4))
    assert read_idx(gz(RAW), "f", (5, 4), limit=240).shape == (12, 5, 4)
    with pytest.raises(CorruptData, match="at most 239 bytes"):
        read_idx(gz(RAW), "f", (5, 4), limit=239)


def test_a_bomb_behind_an_honest_header_stays_packed():
    bomb = gz(RAW + bytes(1 << 25))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptData, match="found more than 240 bytes"):
            read_idx(bomb, "bomb.gz", (5, 4))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def npz(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return packed.getvalue()


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, array, allow_pickle=allow_pickle)
    return content.getvalue()


def test_npz_reads_what_was_written():
    assert np.array_equal(read_npz(npz(a=npy(IMAGES)), "f", ("a",))["a"], IMAGES)


@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (b"", "BadZipFile"),
        (npz(a=npy(IMAGES))[:-30], "BadZipFile"),
        (npz(b=npy(IMAGES)), r"members \['b.npy'\]"),
        (npz(a=npy(IMAGES), b=npy(IMAGES)), r"members \['a.npy', 'b.npy'\]"),
        (npz(a=npy(IMAGES.astype(np.int16))), "a of type int16"),
        (
            npz(a=npy(np.array([{}], dtype=object), allow_pickle=True)),
            "ValueError: Object arrays cannot be loaded",
        ),
        (npz(a=npy(IMAGES)[:-1]), "ValueError"),
        (npz(a=b"not an array"), "found a of type bytes"),
    ],
)
def test_npz_refuses(packed, says):
    with pytest.raises(CorruptData, match=says):
        read_npz(packed, "digits.npz", ("a",), "reinstall")


def test_an_npz_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    monkeypatch.setattr("dither.data._npz.LIMIT", 1 << 20)
    bomb = npz(a=npy(np.zeros(1 << 21, np.uint8)))
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("unpacked"))
    with pytest.raises(CorruptData, match="at most 1,048,576 bytes"):
        read_npz(bomb, "f", ("a",))
