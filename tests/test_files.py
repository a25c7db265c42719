"""Files are written whole or not at all, and read with a cap."""

import errno
import hashlib
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dither import files


@pytest.fixture
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def fail(monkeypatch, name, code):
    def failing(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, name, failing)


def test_write_atomic_replaces_the_content_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a b é.json"
    files.write_atomic(path, b"old")
    files.write_atomic(path, b"new" * 100_000)
    assert path.read_bytes() == b"new" * 100_000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o027], indirect=True)
def test_the_mode_follows_the_umask(tmp_path, umask):
    files.write_atomic(tmp_path / "a", b"")
    files.write_new(tmp_path / "b", b"")
    for name in "ab":
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failure_keeps_the_old_file_and_says_what_to_do(tmp_path, monkeypatch, call, code):
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        fail(patch, call, code)
        with pytest.raises(OSError, match=r"cannot write the file .*; .*disk") as caught:
            files.write_atomic(path, b"new")
    assert (caught.value.errno, caught.value.filename) == (code, str(path))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(data)[:7]))
    files.write_atomic(tmp_path / "a", bytes(range(256)))
    assert (tmp_path / "a").read_bytes() == bytes(range(256))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder must exist"):
        files.write_atomic(tmp_path / "no" / "a", b"")


def test_what_is_written_is_synced_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    events = []
    for name in ("write", "fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (events.append(name), real(*a))[1])
    files.write_atomic(tmp_path / "a", b"x")
    assert events == ["write", "fsync", "replace", "fsync"]


def test_write_new_refuses_a_file_that_is_there(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        files.write_new(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_make_dir_makes_parents_and_syncs_each(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "fsync_dir", lambda folder: synced.append(folder))
    files.make_dir(tmp_path / "a" / "b")
    files.make_dir(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 1_000_000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_read_bytes_refuses_what_is_too_large_before_reading_it(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        file.truncate(1 << 36)
    with pytest.raises(ValueError, match=r"68719476736 bytes, more than the 10 allowed"):
        files.read_bytes(tmp_path / "a", 10)
    (tmp_path / "b").write_bytes(b"0123456789")
    assert files.read_bytes(tmp_path / "b", 10) == b"0123456789"


def test_read_bytes_refuses_links_folders_and_fifos(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "folder", "fifo"):  # a FIFO without a writer would block for ever
        with pytest.raises(ValueError, match="not a regular file"):
            files.read_bytes(tmp_path / name, 10)
    with pytest.raises(FileNotFoundError):
        files.read_bytes(tmp_path / "none", 10)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_json_comes_back_the_same(value):
    try:
        data = files.dump_json(value)
    except UnicodeEncodeError:  # half a surrogate pair has no encoding
        return
    assert files.parse_json(data, "here") == value
    assert files.dump_json(files.parse_json(data, "here")) == data


@pytest.mark.parametrize(
    "data",
    [b'{"a": 1, "a": 2}', b"[NaN]", b"[-Infinity]", b"\xff", b"", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000],
)
def test_json_with_two_meanings_or_none_is_refused(data):
    with pytest.raises(ValueError, match=r"^here is not readable JSON"):
        files.parse_json(data, "here")


def test_write_json_is_stable_and_refuses_nan(tmp_path):
    files.write_json(tmp_path / "a", {"b": 1, "a": [1.5, "é"]})
    files.write_json(tmp_path / "b", {"a": [1.5, "é"], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert files.read_json(tmp_path / "a") == {"a": [1.5, "é"], "b": 1}
    for bad in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises((ValueError, TypeError), match=r"cannot write .*bad\.json as JSON"):
            files.write_json(tmp_path / "bad.json", bad)
    assert not (tmp_path / "bad.json").exists()
