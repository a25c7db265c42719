"""Checkpoints come back exactly, the newest valid one, and nothing that was altered loads."""

import errno
import hashlib
import json
import os
import random
import resource
import shutil
import stat
import time
import warnings

import pytest
import safetensors.torch
import torch

from dither.training import _content, checkpoint
from dither.training.checkpoint import MANIFEST, META, TENSORS, CheckpointWarning, CorruptCheckpoint, load, save

W = torch.arange(12.0).reshape(3, 4)


def step_folder(folder, step):
    return folder / f"step-{step:06d}"


def write(folder, *steps):
    for step in steps:
        save(folder, step, {"w": W + step, "b": torch.ones(2)}, {"step": step, "lr": 0.1}, keep=9)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- saving and loading -----------------------------------------------------------------------------------------------
def test_tensors_and_meta_come_back_exactly(tmp_path):
    base = torch.randn(4, 6)
    tensors = {
        "float": base,
        "view of the same storage": base[1:3, ::2],
        "transposed": base.T,
        "expanded": torch.ones(1).expand(5),
        "bfloat16": base.to(torch.bfloat16),
        "float64": torch.tensor([0.1, float("inf"), float("-inf"), -0.0, 5e-324], dtype=torch.float64),
        "bool": torch.tensor([True, False]),
        "int": torch.tensor(2**62),
        "empty": torch.empty(0, 3),
        "requires grad": torch.ones(2, requires_grad=True),
        "dotted.näme/with ..": torch.ones(1),
    }
    meta = {"a": [1, 2.5, None, "é"], "b": {"c": 0.1 + 0.2}}
    path = save(tmp_path / "deep" / "checkpoints", 400, tensors, meta)
    assert path == tmp_path / "deep" / "checkpoints" / "step-000400"
    loaded = load(path.parent, strict=True)
    assert (loaded.step, loaded.meta, loaded.path) == (400, meta, path)
    assert loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor), name
    loaded.tensors["float"].add_(1)  # writable


def test_the_same_content_gives_the_same_bytes_and_is_not_written_again(tmp_path):
    write(tmp_path / "a", 1)
    write(tmp_path / "b", 1)
    for name in (TENSORS, META, MANIFEST):
        a, b = (step_folder(tmp_path / x, 1) / name for x in "ab")
        assert a.read_bytes() == b.read_bytes()
    before = (step_folder(tmp_path / "a", 1) / MANIFEST).stat()
    write(tmp_path / "a", 1)
    assert (step_folder(tmp_path / "a", 1) / MANIFEST).stat().st_ino == before.st_ino


def test_other_content_for_the_same_step_replaces_it(tmp_path):
    write(tmp_path, 1)
    save(tmp_path, 1, {"w": W}, {"new": True})
    assert load(tmp_path, strict=True).meta == {"new": True}
    assert names(tmp_path) == ["step-000001"]


def test_the_newest_are_kept(tmp_path):
    for step in (5, 10, 999_999, 1_000_000):
        save(tmp_path, step, {"w": W}, {"step": step})
    assert names(tmp_path) == ["step-1000000", "step-999999"]
    assert load(tmp_path).step == 1_000_000
    save(tmp_path, 1_000_001, {}, {}, keep=1)
    assert names(tmp_path) == ["step-1000001"]


def test_there_is_none(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="no checkpoint here; check the path"):
            load(folder)


@pytest.mark.parametrize("damaged", [TENSORS, META, MANIFEST])
def test_a_corrupt_newest_is_passed_over_with_a_warning_and_refused_when_strict(tmp_path, damaged):
    write(tmp_path, 1, 2)
    path = step_folder(tmp_path, 2) / damaged
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(CheckpointWarning, match=r"step-000002.*using step-000001 instead"):
        assert load(tmp_path).step == 1
    with pytest.raises(CorruptCheckpoint, match="step-000002"):
        load(tmp_path, strict=True)
    shutil.rmtree(step_folder(tmp_path, 1))
    with pytest.raises(CorruptCheckpoint, match=r"no checkpoint in .* can be trusted: .*step-000002"):
        load(tmp_path)


def test_a_save_repairs_the_corrupt_checkpoint_of_its_step_and_drops_corrupt_later_ones(tmp_path):
    write(tmp_path, 1, 2, 3, 4)
    for step in (2, 3):
        (step_folder(tmp_path, step) / META).write_bytes(b"{}")
    save(tmp_path, 2, {"w": W}, {"again": True}, keep=9)
    assert names(tmp_path) == ["step-000001", "step-000002", "step-000004"]
    shutil.rmtree(step_folder(tmp_path, 4))
    assert load(tmp_path, strict=True).meta == {"again": True}


def test_what_killed_writers_left_is_cleaned_up_and_what_live_ones_write_is_not(tmp_path):
    write(tmp_path, 1)
    dead = 2**22 + 1  # larger than any process id
    os.rename(step_folder(tmp_path, 1), tmp_path / f"step-000001.old-{dead}")  # killed between two renames
    assert load(tmp_path, strict=True).step == 1
    (tmp_path / f"step-000002.tmp-{dead}").mkdir()
    (tmp_path / f"step-000002.tmp-{dead}" / TENSORS).write_bytes(b"half")
    (tmp_path / f"step-000003.tmp-{os.getppid()}").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path, 2)
    assert names(tmp_path) == ["notes.txt", "step-000001", "step-000002", f"step-000003.tmp-{os.getppid()}"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        path = save(tmp_path / "checkpoints", 1, {"w": W}, {})
    finally:
        os.umask(before)
    for folder in (path, path.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
    for file in path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


def test_nothing_is_renamed_before_it_is_synced(tmp_path, monkeypatch):
    """The order that survives a power cut: files, manifest last, their folder, the rename, the folder above."""
    write(tmp_path, 1)
    events, opened = [], {}

    def spy(name):
        real = getattr(os, name)

        def call(*args, **keywords):
            result = real(*args, **keywords)
            if name == "open":
                opened[result] = os.fspath(args[0])
            elif name == "rename":
                events.append(("rename", os.path.basename(args[0])))
            else:
                events.append((name, os.path.basename(opened[args[0]])))
            return result

        monkeypatch.setattr(os, name, call)

    for name in ("open", "write", "fsync", "rename"):
        spy(name)
    write(tmp_path, 2)
    temporary = f"step-000002.tmp-{os.getpid()}"
    assert events == [
        *((call, name) for name in (TENSORS, META, MANIFEST) for call in ("write", "fsync")),
        ("fsync", temporary),
        ("rename", temporary),
        ("fsync", tmp_path.name),
    ]


@pytest.mark.parametrize("call", ["write", "fsync", "mkdir", "rename"])
def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_half_written(tmp_path, monkeypatch, call):
    write(tmp_path, 1)

    def failing(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(OSError, match=r"cannot save the checkpoint.*free some space") as caught:
            write(tmp_path, 2)
    assert caught.value.errno == errno.ENOSPC
    assert "step-000002" in str(caught.value)
    assert names(tmp_path) == ["step-000001"]
    assert load(tmp_path, strict=True).step == 1


def test_an_old_one_that_cannot_be_removed_is_a_warning_not_a_failure(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def failing(path, *_, **__):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(shutil, "rmtree", failing)
    with pytest.warns(CheckpointWarning, match="could not be removed"):
        save(tmp_path, 2, {"w": W}, {}, keep=1)
    assert load(tmp_path, strict=True).step == 2


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((-1, {}, {}), ValueError, "step is -1"),
        ((1.0, {}, {}), ValueError, "step is 1.0"),
        ((1, {}, {}, 0), ValueError, "keep is 0"),
        ((1, {"w": [1]}, {}), TypeError, r"tensors\['w'\] is a list"),
        ((1, {"__metadata__": W}, {}), ValueError, "called '__metadata__'"),
        ((1, {"w": W.to_sparse()}, {}), ValueError, "dense"),
        ((1, {}, {"x": float("nan")}), ValueError, "meta is not JSON"),
        ((1, {}, {"x": W}), TypeError, "meta is not JSON"),
        ((1, {}, {"x": "a" * (9 << 20)}), ValueError, "put large data into tensors"),
        ((1, {"w" * (9 << 20): W}, {}), ValueError, "header"),
        ((1, {"w": torch.ones([1] * 65)}, {}), ValueError, "64 dimensions"),
    ],
)
def test_what_could_not_be_loaded_again_is_refused_before_anything_is_written(tmp_path, arguments, error, words):
    with pytest.raises(error, match=words):
        save(tmp_path, *arguments)
    assert not names(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_missing_permission_is_not_taken_for_corruption(tmp_path):
    write(tmp_path, 1, 2)
    (step_folder(tmp_path, 2) / TENSORS).chmod(0)
    with pytest.raises(PermissionError):
        load(tmp_path)


# --- corruption -------------------------------------------------------------------------------------------------------
def flip(data, rng):
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def cut(data, rng):
    return data[: rng.randrange(len(data))]


def zero(data, rng):
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice([1, 16, 512, 4096]))
    return data[:start] + bytes(stop - start) + data[stop:]


def insert(data, rng):
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice([1, 8, 1000])) + data[at:]


def repeat(data, rng):
    return data + data


def edit_number(data, rng):
    at = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    i = rng.choice(at or [0])
    return data[:i] + b"%d" % rng.randrange(10) + data[i + 1 :]


def space(data, rng):
    at = rng.choice([i for i, byte in enumerate(data) if byte in b',:{ \n"'] or [0])
    return data[:at] + b" " + data[at:]


MUTATIONS = [flip, cut, zero, insert, repeat, edit_number, space]


def lay(path, content):
    path.mkdir(exist_ok=True)
    for name, data in content.items():
        (path / name).write_bytes(data)


def read_all(path):
    return {name: (path / name).read_bytes() for name in (TENSORS, META, MANIFEST)}


def test_of_1000_mutated_checkpoints_none_loads_differently_and_none_crashes(tmp_path):
    write(tmp_path / "source", 1, 2)
    other, good = (read_all(step_folder(tmp_path / "source", step)) for step in (1, 2))
    folder, rng, refused, same = tmp_path / "mutated", random.Random(0), 0, 0
    peak, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    folder.mkdir()
    for i in range(1000):
        content = dict(good)
        kind = i % 10
        if kind == 7:  # files of another checkpoint
            for name in rng.sample(sorted(content), rng.choice([1, 2, 3])):
                content[name] = other[name]
        elif kind == 8:  # two files swapped
            a, b = rng.sample(sorted(content), 2)
            content[a], content[b] = content[b], content[a]
        elif kind == 9:  # a file lost
            del content[rng.choice(sorted(content))]
        else:
            name = rng.choice(sorted(content))
            content[name] = MUTATIONS[kind](content[name], rng)
        lay(step_folder(folder, 2), content)
        try:
            loaded = load(folder)
        except CorruptCheckpoint:
            refused += 1
        else:
            assert content == good, f"mutation {i} of kind {kind} was loaded"
            assert torch.equal(loaded.tensors["w"], W + 2)
            same += 1
        shutil.rmtree(step_folder(folder, 2))
    assert refused + same == 1000
    assert refused > 950
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 << 10  # KiB
    assert time.monotonic() - began < 60


def tensor_file(header, data=bytes(48)):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


ENTRY = {"dtype": "F32", "shape": [12], "data_offsets": [0, 48]}
FORGED_TENSORS = {
    "empty": b"",
    "shorter than its length": b"\x00\x00",
    "header of 2^63 bytes": (1 << 63).to_bytes(8, "little") + bytes(100),
    "header one byte too long": (101).to_bytes(8, "little") + bytes(100),
    "header no JSON": tensor_file(b"\xff{"),
    "header a list": tensor_file([]),
    "header nested 100,000 deep": tensor_file(b"[" * 100_000),
    "header of 9 MB": tensor_file(b" " * (9 << 20)),
    "entry a number": tensor_file({"w": 1}),
    "name twice": tensor_file(b'{"w":%s,"w":%s}' % ((json.dumps(ENTRY).encode(),) * 2)),
    "key twice": tensor_file(b'{"w":{"dtype":"F32","dtype":"I32","shape":[12],"data_offsets":[0,48]}}'),
    "shape of 10^9": tensor_file({"w": {**ENTRY, "shape": [10**9]}}),
    "shape overflowing": tensor_file({"w": {**ENTRY, "shape": [2**33, 2**33]}}),
    "shape 0 x 2^63": tensor_file({"w": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}, b""),
    "shape negative": tensor_file({"w": {**ENTRY, "shape": [-12]}}),
    "shape fractional": tensor_file({"w": {**ENTRY, "shape": [12.0]}}),
    "shape missing": tensor_file({"w": {"dtype": "F32", "data_offsets": [0, 48]}}),
    "100,000 dimensions": tensor_file({"w": {**ENTRY, "shape": [1] * 99_999 + [12]}}),
    "unknown dtype": tensor_file({"w": {**ENTRY, "dtype": "OBJECT"}}),
    "offsets reversed": tensor_file({"w": {**ENTRY, "data_offsets": [48, 0]}}),
    "offsets beyond the end": tensor_file({"w": {**ENTRY, "shape": [24], "data_offsets": [0, 96]}}),
    "overlapping": tensor_file({"v": ENTRY, "w": ENTRY}),
    "a hole": tensor_file({"w": {**ENTRY, "data_offsets": [4, 52]}}, bytes(52)),
    "data left over": tensor_file({"w": ENTRY}, bytes(52)),
}
FORGED_META = {
    "a list": b"[]",
    "a number": b"1",
    "NaN": b'{"a": NaN}',
    "key twice": b'{"a": 1, "a": 2}',
    "not UTF-8": b'{"a": "\xff"}',
    "nested 100,000 deep": b'{"a":' * 100_000,
    "9 MB": b'{"a": "' + b"a" * (9 << 20) + b'"}',
    "number of 5,000 digits": b'{"a": ' + b"1" * 5000 + b"}",
}


def forge(path, **content):
    """Replace files and sign the manifest anew, as somebody with a text editor and patience would."""
    parts = {**read_all(path), **{name.replace("_", "."): data for name, data in content.items()}}
    manifest = json.loads(parts[MANIFEST])
    for name in (TENSORS, META):
        manifest["files"][name] = {"sha256": hashlib.sha256(parts[name]).hexdigest(), "size": len(parts[name])}
    del manifest["digest"]
    lay(path, {**parts, MANIFEST: _content.sign(manifest)})


@pytest.mark.parametrize("name", FORGED_TENSORS)
def test_forged_tensors_with_correct_hashes_are_refused(tmp_path, name):
    write(tmp_path, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    forge(step_folder(tmp_path, 2), tensors_safetensors=FORGED_TENSORS[name])
    with pytest.raises(CorruptCheckpoint):
        load(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 256 << 10  # KiB


@pytest.mark.parametrize("name", FORGED_META)
def test_forged_meta_with_correct_hashes_is_refused(tmp_path, name):
    write(tmp_path, 2)
    forge(step_folder(tmp_path, 2), meta_json=FORGED_META[name])
    with pytest.raises(CorruptCheckpoint):
        load(tmp_path)


def test_the_forger_of_these_tests_can_forge(tmp_path):
    write(tmp_path, 2)
    forge(step_folder(tmp_path, 2), tensors_safetensors=safetensors.torch.save({"w": W}), meta_json=b"{}")
    assert torch.equal(load(tmp_path).tensors["w"], W)


def edit(path, change, sign=True):
    manifest = json.loads((path / MANIFEST).read_bytes())
    digest = manifest.pop("digest")
    manifest = change(manifest) or manifest
    data = _content.sign(manifest) if sign else json.dumps({**manifest, "digest": digest}).encode()
    (path / MANIFEST).write_bytes(data)


def entry(name=TENSORS, **values):
    return lambda manifest: manifest["files"][name].update(values)


MANIFEST_EDITS = {
    "a path upwards": lambda m: m["files"].update({"../../secret": m["files"].pop(TENSORS)}),
    "an absolute path": lambda m: m["files"].update({"/etc/passwd": m["files"].pop(META)}),
    "one file more": lambda m: m["files"].update({"more": m["files"][META]}),
    "one file less": lambda m: m["files"].pop(META) and None,
    "files a list": lambda m: m.update(files=[TENSORS, META]),
    "an entry a string": lambda m: m["files"].update({META: "sha"}),
    "size negative": entry(size=-1),
    "size of 10^30": entry(size=10**30),
    "size a float": entry(size=1.0),
    "size true": entry(size=True),
    "size null": entry(size=None),
    "meta of 10^12": entry(META, size=10**12),
    "hash null": entry(sha256=None),
    "hash empty": entry(sha256=""),
    "another step": lambda m: m.update(step=3),
    "step true": lambda m: m.update(step=True),
    "format 2": lambda m: m.update(format=2),
    "format true": lambda m: m.update(format=True),
    "a key more": lambda m: m.update(more=1),
    "a key less": lambda m: m.pop("step") and None,
}


@pytest.mark.parametrize("name", MANIFEST_EDITS)
@pytest.mark.parametrize("step", [1, 2])
def test_manifests_that_say_something_else_are_refused(tmp_path, name, step):
    (tmp_path.parent / "secret").write_bytes(b"")
    write(tmp_path, step)
    edit(step_folder(tmp_path, step), MANIFEST_EDITS[name])
    with pytest.raises(CorruptCheckpoint, match=r"manifest|bytes of"):
        load(tmp_path)


def test_a_manifest_is_bound_to_its_own_bytes(tmp_path):
    """Another digest, another spelling, a key twice: refused even where the meaning is the same."""
    write(tmp_path, 2)
    path = step_folder(tmp_path, 2) / MANIFEST
    good = path.read_bytes()
    edit(path.parent, lambda m: None)
    assert path.read_bytes() == good  # the tool of this test changes nothing by itself
    edit(path.parent, lambda m: None, sign=False)  # compact spelling
    bad = [path.read_bytes(), good[:-1], b" " + good, good + b"\n"]
    bad += [good.replace(b'"step": 2', b'"step": 2, "step": 2'), good.replace(b'"step": 2', b'"step": 3')]
    bad += [good.replace(b'"digest": "', b'"digest": "0'), good.upper(), b"[]", b"null", b"{}", b"1", b""]
    bad += [b" " * (1 << 20) + good]
    for data in bad:
        path.write_bytes(data)
        with pytest.raises(CorruptCheckpoint):
            load(tmp_path)
    path.write_bytes(good)
    assert load(tmp_path).step == 2


def test_links_fifos_folders_and_files_in_the_wrong_place_are_refused(tmp_path):
    write(tmp_path / "good", 2)
    good = step_folder(tmp_path / "good", 2)
    for name in (TENSORS, META, MANIFEST):
        for make in (lambda p: p.symlink_to(good / p.name), os.mkfifo, os.mkdir):
            folder = tmp_path / "bad"
            shutil.copytree(good, step_folder(folder, 2))
            (step_folder(folder, 2) / name).unlink()
            make(step_folder(folder, 2) / name)
            with pytest.raises(CorruptCheckpoint):
                load(folder)
            shutil.rmtree(folder)
    (tmp_path / "file").mkdir()
    step_folder(tmp_path / "file", 2).write_bytes(b"")
    with pytest.raises(CorruptCheckpoint):
        load(tmp_path / "file")
    save(tmp_path / "file", 2, {"w": W}, {})  # and a save puts it right
    assert load(tmp_path / "file", strict=True).step == 2
    assert names(tmp_path / "file") == ["step-000002"]


def test_a_checkpoint_under_another_name_is_refused_or_not_seen(tmp_path):
    write(tmp_path, 2)
    os.rename(step_folder(tmp_path, 2), step_folder(tmp_path, 3))
    with pytest.raises(CorruptCheckpoint, match="belongs to step 2"):
        load(tmp_path)
    for name in ("step-2", "step-0000002", "step-000002.tmp-1", "step-000002x", "step-00000２", "xstep-000002"):
        os.rename(next(tmp_path.iterdir()), tmp_path / name)
        with pytest.raises(FileNotFoundError):
            load(tmp_path)


def test_a_huge_sparse_file_is_refused_without_reading_it(tmp_path):
    write(tmp_path, 2)
    os.truncate(step_folder(tmp_path, 2) / TENSORS, 1 << 36)
    peak, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(CorruptCheckpoint, match="more than"):
        load(tmp_path)
    assert time.monotonic() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 << 10


def test_memory_stays_within_a_few_times_the_file(tmp_path):
    save(tmp_path, 1, {"w": torch.ones(4 << 20)}, {})  # 16 MiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 3 * (16 << 10)


# --- choosing a step --------------------------------------------------------------------------------------------------
def test_a_step_can_be_chosen(tmp_path):
    assert checkpoint.steps(tmp_path) == checkpoint.steps(tmp_path / "nowhere") == []
    write(tmp_path, 300, 20, 1000000)
    (tmp_path / "step-000007.tmp-1").mkdir()
    assert checkpoint.steps(tmp_path) == [20, 300, 1000000]
    loaded = load(tmp_path, step=20)
    assert loaded.step == loaded.meta["step"] == 20 and torch.equal(loaded.tensors["w"], W + 20)
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 7 here; there is 20, 300, 1000000"):
        load(tmp_path, step=7)


def test_a_chosen_step_is_never_replaced_by_another(tmp_path):
    write(tmp_path, 1, 2)
    os.truncate(step_folder(tmp_path, 2) / TENSORS, 9)
    with pytest.raises(CorruptCheckpoint, match=r"no checkpoint of step 2 .*truncated.*choose another step"):
        load(tmp_path, step=2)
    assert load(tmp_path, step=1).step == 1
    step_folder(tmp_path, 1).rename(tmp_path / "step-000001.old-1")  # moved aside by a writer that was killed
    assert checkpoint.steps(tmp_path) == [1, 2] and load(tmp_path, step=1).step == 1


def test_the_public_names():
    with warnings.catch_warnings():
        assert issubclass(CorruptCheckpoint, ValueError)
        assert issubclass(CheckpointWarning, UserWarning)
    assert all(hasattr(checkpoint, name) for name in checkpoint.__all__)
