"""Where files are looked for, and what is said when there are none. Downloads come from file:// mirrors."""

import socket
import sys

import pytest
import torch

from dither import data
from dither.data._mnist import FASHION_MNIST, FILES, MNIST, load_idx, parse_pair
from dither.data._store import cache_dir
from small_idx import TEST, TRAIN, VALID, gz, idx, small_arrays, small_files, small_source, write


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path, monkeypatch):
    monkeypatch.delenv("DITHER_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DITHER_OFFLINE", "1")


@pytest.fixture
def files():
    return small_files()


def check(dataset):
    images, labels, test_images, test_labels = small_arrays()
    x = torch.tensor(images).flatten(1) / 255
    cut = TRAIN - VALID
    assert torch.equal(dataset.train.x, x[:cut]) and torch.equal(dataset.valid.x, x[cut:])
    assert torch.equal(torch.cat([dataset.train.y, dataset.valid.y]), torch.tensor(labels).long())
    assert torch.equal(dataset.test.x, torch.tensor(test_images).flatten(1) / 255)
    assert torch.equal(dataset.test.y, torch.tensor(test_labels).long())
    assert dataset.train.x.dtype == torch.float32 and dataset.train.y.dtype == torch.int64
    assert (dataset.shape, dataset.classes, len(dataset.test)) == ((1, 5, 4), 10, TEST)


def test_data_dir_then_environment_then_cache(tmp_path, monkeypatch, files):
    source = small_source(files)
    write(files, tmp_path / "named")
    check(load_idx(source, tmp_path / "named"))
    check(load_idx(source, str(tmp_path / "named")))

    with pytest.raises(FileNotFoundError):
        load_idx(source)
    monkeypatch.setenv("DITHER_DATA", str(tmp_path / "named"))
    check(load_idx(source))

    monkeypatch.setenv("DITHER_DATA", str(tmp_path / "elsewhere"))
    write(files, tmp_path / "cache" / "dither")
    check(load_idx(source))  # not where the variable points, so from the cache

    monkeypatch.setenv("DITHER_DATA", str(tmp_path / "damaged"))
    write({name: content[:-1] for name, content in files.items()}, tmp_path / "damaged")
    with pytest.raises(data.CorruptData, match="damaged"):
        load_idx(source)  # what the user points at is never passed over in silence


def test_a_folder_of_links_and_a_folder_with_a_strange_name(tmp_path, files):
    write(files, tmp_path / "real")
    for name in files:
        (tmp_path / "Données ☃" / "small").mkdir(parents=True, exist_ok=True)
        (tmp_path / "Données ☃" / "small" / name).symlink_to(tmp_path / "real" / "small" / name)
    check(load_idx(small_source(files), tmp_path / "Données ☃"))


def test_what_is_missing_is_said_in_full(tmp_path, monkeypatch, files):
    monkeypatch.setenv("DITHER_DATA", str(tmp_path / "here"))
    with pytest.raises(FileNotFoundError) as caught:
        data.mnist()
    for part in (
        "no mnist/train-images-idx3-ubyte.gz",
        str(tmp_path / "here"),
        str(tmp_path / "cache" / "dither"),
        "DITHER_DATA",
        "DITHER_OFFLINE is set",
        "dither.data.load('mnist')",
    ):
        assert part in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"no fashion_mnist/.*data_dir was given"):
        data.fashion_mnist(tmp_path)
    write({FILES[0]: files[FILES[0]]}, tmp_path)
    with pytest.raises(FileNotFoundError, match=FILES[1]):
        load_idx(small_source(files), tmp_path)
    assert not (tmp_path / "cache").exists()  # looking leaves nothing behind


def test_download_tries_the_mirrors_in_turn(tmp_path, monkeypatch, files, capfd):
    monkeypatch.setenv("DITHER_OFFLINE", "0")
    write({name: content[::-1] for name, content in files.items()}, tmp_path / "bad")
    write(files, tmp_path / "good")
    urls = tuple(f"{(tmp_path / folder / 'small').as_uri()}/" for folder in ("absent", "bad", "good"))

    with pytest.raises(FileNotFoundError, match=r"absent.*bad.*invalid hash"):
        load_idx(small_source(files, urls[:2]))
    assert not [path for path in cache_dir().rglob("*") if path.is_file()]  # nothing half-written

    check(load_idx(small_source(files, urls)))
    assert sorted(path.name for path in (cache_dir() / "small").iterdir()) == sorted(FILES)
    monkeypatch.setenv("DITHER_OFFLINE", "1")
    check(load_idx(small_source(files)))  # there now
    assert capfd.readouterr() == ("", "")  # no progress bar off a terminal
    assert socket.getdefaulttimeout() is None


def test_download_without_stderr_and_into_a_cache_that_cannot_be_created(tmp_path, monkeypatch, files):
    monkeypatch.setenv("DITHER_OFFLINE", "")
    monkeypatch.setattr(sys, "stderr", None)
    (tmp_path / "cache").write_text("a file where the folder should be")
    write(files, tmp_path / "good")
    with pytest.raises(FileNotFoundError, match=r"Not a directory|File exists"):
        load_idx(small_source(files, ((tmp_path / "good" / "small").as_uri() + "/",)))


def test_cache_dir(tmp_path, monkeypatch):
    assert cache_dir() == tmp_path / "cache" / "dither"
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_dir() == tmp_path / ".cache" / "dither"


def test_pairs_must_belong_together(files):
    images, labels, _, test_labels = (files[name] for name in FILES)
    source = small_source(files)
    assert len(parse_pair(images, "x", labels, "y", source)) == TRAIN
    with pytest.raises(data.CorruptData, match="y is corrupt: expected 12 labels, one for each image of x, found 6"):
        parse_pair(images, "x", test_labels, "y", source)
    wrong = small_arrays()[1]
    wrong[4] = 10
    with pytest.raises(data.CorruptData, match="labels from 0 to 9, found 10 at index 4"):
        parse_pair(images, "x", gz(idx(wrong)), "y", source)


def test_a_file_too_large_is_refused_unread(tmp_path, monkeypatch, files):
    write(files, tmp_path)
    monkeypatch.setattr("dither.data._store.PACKED_LIMIT", 20)
    with pytest.raises(data.CorruptData, match="at most 20 bytes"):
        load_idx(small_source(files), tmp_path)


@pytest.mark.parametrize("source", [MNIST, FASHION_MNIST], ids=lambda source: source.name)
def test_sources_are_complete(source):
    assert len(source.mirrors) >= 2 and len(set(source.sha256)) == 4
    assert all(url.startswith("https://") and url.endswith("/") for url in source.mirrors)
    assert all(len(digest) == 64 and int(digest, 16) for digest in source.sha256)
