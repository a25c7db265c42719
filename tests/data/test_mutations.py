"""1,200 damaged data files: each is refused by name, or is as good as the original. None loads wrong."""

import gzip
import struct
from importlib import resources

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dither.data import CorruptData
from dither.data._digits import FILE, SHA256, parse_digits
from dither.data._mnist import load_idx, parse_pair
from dither.data._npz import read_npz
from small_idx import FILES, gz, small_files, small_source, write

SMALL = small_files()
SOURCE = small_source(SMALL)
DIGITS = (resources.files("dither.data") / FILE).read_bytes()
NAMES = ("pixels", "labels", "part")
examples = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def damage(draw, data: bytes) -> bytes:
    """The bytes with one fault of a kind that disks, networks and editors make."""
    at = draw(st.integers(0, len(data) - 1))
    kind = draw(st.sampled_from(["flip", "truncate", "zero", "byte", "tail", "insert", "cut", "swap"]))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
    if kind == "truncate":
        return data[:at]
    if kind == "zero":
        page = draw(st.sampled_from([16, 512, 4096]))
        start = at - at % page
        return data[:start] + bytes(len(data[start : start + page])) + data[start + page :]
    if kind == "byte":
        return data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at + 8 :]
    if kind == "tail":
        return data + data[at:]
    if kind == "insert":
        return data[:at] + draw(st.binary(min_size=1, max_size=64)) + data[at:]
    if kind == "cut":
        return data[:at] + data[at + draw(st.integers(1, 64)) :]
    return data[at:] + data[:at]


@st.composite
def edited(draw, packed: bytes) -> bytes:
    """An IDX file unpacked, changed in its header or its length, and packed again with a fitting checksum."""
    raw = gzip.decompress(packed)
    rank = raw[3]
    kind = draw(st.sampled_from(["magic", "dimension", "shorter", "longer", "bomb"]))
    if kind == "magic":
        return gz(draw(st.binary(min_size=4, max_size=4)) + raw[4:])
    if kind == "dimension":
        dims = list(struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank]))
        dims[draw(st.integers(0, rank - 1))] = draw(st.integers(0, 30) | st.integers(0, 2**32 - 1))
        return gz(raw[:4] + struct.pack(f">{rank}I", *dims) + raw[4 + 4 * rank :])
    if kind == "shorter":
        return gz(raw[: draw(st.integers(0, len(raw) - 1))])
    if kind == "longer":
        return gz(raw + draw(st.binary(min_size=1, max_size=64)))
    return gz(raw + bytes(1 << 20))


def equal(one, other) -> bool:
    return torch.equal(one.x, other.x) and torch.equal(one.y, other.y)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mutated")


@settings(examples, max_examples=400)
@given(st.data())
def test_a_damaged_file_in_the_folder(folder, data):
    file = data.draw(st.sampled_from(FILES))
    raw = gzip.decompress(SMALL[file])
    # `damage(raw)` packed again is a sound gzip stream of other numbers: only the hash can tell.
    mutated = data.draw(damage(SMALL[file]) | edited(SMALL[file]) | damage(raw).map(gz) | st.none())
    write(SMALL, folder)
    if mutated is None:
        (folder / "small" / file).unlink()
    else:
        (folder / "small" / file).write_bytes(mutated)
    try:
        loaded = load_idx(SOURCE, folder)
    except (CorruptData, FileNotFoundError) as error:
        assert mutated != SMALL[file]
        assert isinstance(error, FileNotFoundError) == (mutated is None)
        assert file in str(error)
    else:
        assert mutated == SMALL[file]
        write(SMALL, folder)
        intact = load_idx(SOURCE, folder)
        assert all(equal(getattr(loaded, part), getattr(intact, part)) for part in ("train", "valid", "test"))


@settings(examples, max_examples=400)
@given(st.data())
def test_a_damaged_file_in_the_parser(data):
    """Without the hash, gzip's own checksum and the declared sizes must do."""
    images, labels = SMALL[FILES[0]], SMALL[FILES[1]]
    intact = parse_pair(images, "images", labels, "labels", SOURCE)
    if data.draw(st.booleans()):
        images = data.draw(damage(images) | edited(images))
    else:
        labels = data.draw(damage(labels) | edited(labels))
    try:
        loaded = parse_pair(images, "images", labels, "labels", SOURCE)
    except CorruptData:
        return
    assert equal(loaded, intact)  # such as a flipped bit in gzip's time stamp


@settings(examples, max_examples=200)
@given(damage(DIGITS))
def test_the_damaged_digits(mutated):
    if mutated == DIGITS:
        return
    with pytest.raises(CorruptData, match=SHA256):
        parse_digits(mutated)


@settings(examples, max_examples=200)
@given(damage(DIGITS))
def test_the_damaged_digits_in_the_parser(mutated):
    intact = read_npz(DIGITS, FILE, NAMES)
    try:
        loaded = read_npz(mutated, FILE, NAMES)
    except CorruptData:
        return
    assert all((loaded[name] == intact[name]).all() for name in NAMES)
