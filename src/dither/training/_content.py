"""The content of a checkpoint: tensors, meta and manifest as bytes, and back with every byte verified.

A load checks every byte against the manifest before it parses any: neither safetensors nor torch's zip format
notices a flipped bit. The hashes guard against accidents; they are no signature, but a forged file can do no
more than hold other numbers: there is no pickle, and no path is ever taken from a file.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from dither import files

FORMAT = 1
TENSORS, META, MANIFEST = "tensors.safetensors", "meta.json", "manifest.json"
JSON_CAP = 8 << 20  # bytes of meta.json, and of the header of the tensors: about 80,000 tensors
MANIFEST_CAP = 1 << 16
MAX_DIMENSIONS = 64
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EIO}


class CorruptCheckpoint(ValueError):
    """A checkpoint is there but is not what was saved."""


@dataclass(frozen=True)
class Checkpoint:
    """What `load` returns: tensors on the CPU, `meta` as `save` took it."""

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    path: Path


def encode(step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> dict[str, bytes]:
    """File name -> bytes, the manifest last. ValueError or TypeError for what could not be loaded again."""
    content = {TENSORS: _encode_tensors(tensors), META: _encode_meta(meta)}
    entries = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in content.items()}
    return {**content, MANIFEST: sign({"format": FORMAT, "step": step, "files": entries})}


def _encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    for name, tensor in tensors.items():
        if type(name) is not str or name == "__metadata__":
            raise ValueError(f"a tensor is called {name!r}; use a string other than '__metadata__'")
        if not isinstance(tensor, Tensor):
            raise TypeError(f"tensors[{name!r}] is a {type(tensor).__name__}; pass a tensor, or put it into meta")
    separate = {}
    try:
        for name, tensor in tensors.items():
            # Clones, because tied or sliced tensors share storage, which the format refuses.
            separate[name] = tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        data = safetensors.torch.save(separate)
    except Exception as failure:  # torch's and the serialiser's own exceptions are of many kinds
        raise ValueError(f"the tensors cannot be saved: {failure}; use dense tensors of common dtypes") from failure
    _check_header(data)
    return data


def _encode_meta(meta: Mapping[str, Any]) -> bytes:
    try:
        data = files.dump_json(dict(meta))
    except (TypeError, ValueError) as failure:
        raise type(failure)(f"meta is not JSON: {failure}; use finite numbers, strings, lists and dicts") from failure
    if len(data) > JSON_CAP:
        raise ValueError(f"meta takes {len(data)} bytes as JSON, more than {JSON_CAP}; put large data into tensors")
    return data


def sign(manifest: dict[str, Any]) -> bytes:
    """The one encoding of a manifest, with a digest of itself: any other byte in it makes it invalid."""
    return files.dump_json({**manifest, "digest": hashlib.sha256(files.dump_json(manifest)).hexdigest()})


def read(path: Path, step: int) -> Checkpoint:
    """The checkpoint of `step` in the folder `path`; CorruptCheckpoint unless every byte is as written."""
    content = {}
    for name, (size, digest) in _read_manifest(path / MANIFEST, step).items():
        data = read_bytes(path / name, size)
        if len(data) != size:
            raise CorruptCheckpoint(f"{path / name} has {len(data)} bytes of {size}: it is truncated")
        if hashlib.sha256(data).hexdigest() != digest:
            raise CorruptCheckpoint(f"{path / name} has been altered: its sha256 is not the one in {MANIFEST}")
        content[name] = data
    try:
        meta = files.parse_json(content[META], str(path / META))
        _check_header(content[TENSORS])
        tensors = safetensors.torch.load(content[TENSORS])
    except Exception as failure:  # the parser's own exceptions are of many kinds
        raise CorruptCheckpoint(f"{path} cannot be parsed: {failure}") from failure
    if not isinstance(meta, dict):
        raise CorruptCheckpoint(f"{path / META} must hold a JSON object, not a {type(meta).__name__}")
    return Checkpoint(step, tensors, meta, path)


def _read_manifest(path: Path, step: int) -> dict[str, tuple[int, str]]:
    """File name -> (size, sha256); the names are those that we know, never names out of a file."""
    raw = read_bytes(path, MANIFEST_CAP)
    try:
        manifest = files.parse_json(raw, str(path))
        if not isinstance(manifest, dict) or set(manifest) != {"format", "step", "files", "digest"}:
            raise ValueError("its keys are not format, step, files, digest")
        if raw != sign({key: value for key, value in manifest.items() if key != "digest"}):
            raise ValueError("its digest does not match")
        if type(manifest["format"]) is not int or manifest["format"] != FORMAT:
            raise ValueError(f"its format is {manifest['format']!r}, known is {FORMAT}; update dither")
        if type(manifest["step"]) is not int or manifest["step"] != step:
            raise ValueError(f"it belongs to step {manifest['step']!r}")
        entries = manifest["files"]
        if not isinstance(entries, dict) or set(entries) != {TENSORS, META}:
            raise ValueError(f"its files are not {TENSORS} and {META}")
        for entry in entries.values():
            if not isinstance(entry, dict) or set(entry) != {"sha256", "size"} or type(entry["size"]) is not int:
                raise ValueError("an entry is not a size and a sha256")
        if entries[META]["size"] > JSON_CAP:
            raise ValueError(f"{META} is larger than {JSON_CAP} bytes")
        return {name: (entry["size"], entry["sha256"]) for name, entry in entries.items()}
    except ValueError as failure:
        raise CorruptCheckpoint(f"{path} is not a valid manifest: {failure}") from failure


def read_bytes(path: Path, cap: int) -> bytes:
    try:
        return files.read_bytes(path, cap)
    except ValueError as failure:
        raise CorruptCheckpoint(str(failure)) from failure
    except OSError as failure:
        if failure.errno in _DAMAGE:  # anything else, such as a missing permission, says nothing about the content
            raise CorruptCheckpoint(f"{path} cannot be read: {failure.strerror}") from failure
        raise


def _check_header(data: bytes) -> None:
    """Refuse what the parser lets pass or would spend memory on: duplicate names, absurd shapes."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, JSON_CAP):
        raise ValueError(f"the header of {TENSORS} takes {size} bytes, at most {JSON_CAP} are allowed")
    header = files.parse_json(data[8 : 8 + size], f"the header of {TENSORS}")
    if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise ValueError(f"the header of {TENSORS} is not an object of objects")
    for name, entry in header.items():
        shape = entry.get("shape")
        if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
            raise ValueError(f"the tensor {name!r} has no shape of at most {MAX_DIMENSIONS} dimensions")
