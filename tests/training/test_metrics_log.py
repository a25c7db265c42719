"""The metrics file: whole lines, finite numbers, and a cut that leaves no duplicate and no gap."""

import errno
import json
import os

import numpy
import pytest
import torch

from dither.training import metrics_log
from dither.training.metrics_log import CorruptLog, MetricsLog, read


@pytest.fixture
def log(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    yield log
    log.close()


def fill(log, *steps):
    for step in steps:
        log.append({"step": step, "loss": 1 / step})


def test_records_come_back_in_order_and_exactly(log):
    records = [{"epoch": 1, "step": 3, "loss": 0.1 + 0.2, "note": "é", "n": None}, {"step": 6, "loss": 5e-324}]
    for record in records:
        assert log.append(record) == record
    assert read(log.path) == records
    assert log.path.read_text("utf-8").splitlines()[0].startswith('{"epoch": 1, "step": 3, ')


def test_a_line_is_in_the_file_as_soon_as_append_returns(log):
    for step in (1, 2):
        fill(log, step)
        assert read(log.path)[-1]["step"] == step


def test_numbers_of_numpy_become_plain(log):
    record = log.append({"step": numpy.int64(1), "a": numpy.float32(0.5), "b": numpy.float64(0.1), "c": True})
    assert record == {"step": 1, "a": 0.5, "b": 0.1, "c": True}
    assert [type(value) for value in record.values()] == [int, float, float, bool]


@pytest.mark.parametrize(
    ("record", "error", "words"),
    [
        ({"step": 1, "loss": float("nan")}, ValueError, "'loss' is nan"),
        ({"step": 1, "loss": float("-inf")}, ValueError, "'loss' is -inf"),
        ({"step": 1, "loss": numpy.float32("inf")}, ValueError, "'loss' is inf"),
        ({"step": 1, "loss": torch.ones(())}, TypeError, "'loss' is a Tensor; .*item"),
        ({"loss": 1.0}, ValueError, "no integer 'step'"),
        ({"step": 1.0}, ValueError, "no integer 'step'"),
        ({"step": True}, ValueError, "no integer 'step'"),
    ],
)
def test_what_is_not_a_finite_number_is_refused_and_not_written(log, record, error, words):
    fill(log, 1)
    with pytest.raises(error, match=words):
        log.append(record)
    assert len(read(log.path)) == 1


@pytest.mark.parametrize("step", range(0, 12))
def test_rewind_keeps_what_is_not_later(log, step):
    fill(log, *range(1, 11))
    whole = log.path.read_bytes().splitlines(keepends=True)
    assert [record["step"] for record in log.rewind(step)] == list(range(1, min(step, 10) + 1))
    assert log.path.read_bytes() == b"".join(whole[:step])
    fill(log, *range(min(step, 10) + 1, 11))
    assert log.path.read_bytes() == b"".join(whole)


@pytest.mark.parametrize("tail", [b"{", b'{"step": 4, "lo', b"\0" * 100, b'{"step": 3, "loss": 1}', b"\xff\n", b"[]\n"])
def test_an_unreadable_tail_is_cut(log, tail):
    fill(log, 1, 2, 3)
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + tail)
    assert len(log.rewind(3)) == 3
    assert log.path.read_bytes() == whole


def test_reading_leaves_out_a_partial_last_line_and_names_any_other(log):
    fill(log, 1, 2)
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + b'{"step": 3, "lo')
    assert len(read(log.path)) == 2
    log.path.write_bytes(b'{"step"\n' + whole)
    with pytest.raises(CorruptLog, match=r"metrics\.jsonl, line 1, is not a record"):
        read(log.path)
    with pytest.raises(FileNotFoundError):
        read(log.path.parent / "none")


def test_a_new_writer_drops_the_half_line_of_a_killed_one(log):
    fill(log, 1)
    log.close()
    with open(log.path, "ab") as file:
        file.write(b'{"step": 2, "lo')
    fill(log, 2)
    assert [record["step"] for record in read(log.path)] == [1, 2]


def test_a_full_disk_leaves_whole_lines(log, monkeypatch):
    fill(log, 1)
    real = os.write

    def half(handle, data):
        if len(data) < 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, bytes(data)[: len(data) - 10])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError, match="free some space") as caught:
            fill(log, 2)
    assert str(log.path) in str(caught.value)
    fill(log, 2)
    assert [record["step"] for record in read(log.path)] == [1, 2]


def test_sync_syncs_this_file(log, monkeypatch):
    fill(log, 1)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    log.sync()
    assert synced == [log.path.stat().st_ino]


def test_no_line_is_rewritten_by_appending(log):
    fill(log, 1, 2)
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2]
    assert metrics_log.clean({"step": 1}) == {"step": 1}
