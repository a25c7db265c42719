"""Feature nets as bytes, and the trained ones that come with the package. No pickle; what is read is verified."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from dither.files import parse_json
from dither.metrics._features import FeatureNet

HEADER_CAP = 1 << 16  # bytes
# hash(net) of the nets that `dither experiment feature-nets` trained.
TRAINED = {
    "mnist": "1859436c5ba3ea58d926c9b9d2e817f4c4b7a0b24f14ed39fb105c15bf1b3ed4",
    "digits": "b24efa201fcc5b2b37b5ebea2700283f4ee348dd5749d19f893d13e6f621cf09",
}


def feature_net(name: str) -> FeatureNet:
    """The trained net for "mnist" (28 x 28) or "digits" (8 x 8), verified: test accuracy .9911 and .9833.

    Trained on the training part of those data alone. They know handwritten digits; for other labelled images train a
    net of their own (`train_feature_net`).
    Raises      ValueError for another name or a damaged file.

    >>> import torch
    >>> net = feature_net("digits")
    >>> net.features(torch.zeros(2, 64)).shape
    torch.Size([2, 64])
    """
    if name not in TRAINED:
        raise ValueError(f"there is no feature net {name!r}; choose one of {', '.join(TRAINED)}, or train one")
    return from_bytes((resources.files("dither.metrics") / f"{name}_features.safetensors").read_bytes(), sha256=TRAINED[name])


def hash(net: FeatureNet) -> str:
    """sha256 over what defines the net: shape, classes, and name, shape and bytes (float32) of every weight."""
    digest = hashlib.sha256(f"FeatureNet {net.shape} {net.classes}\n".encode())
    for name, weight in sorted(_weights(net).items()):
        digest.update(f"{name} {tuple(weight.shape)}\n".encode())
        digest.update(weight.numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def to_bytes(net: FeatureNet) -> bytes:
    """The net as a safetensors file: in half precision where that loses nothing (as for trained nets), else in float32.

    The same net gives the same bytes.  Raises ValueError for a weight that is not finite.
    """
    import safetensors.torch

    weights = _weights(net)
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise ValueError(f"the weight {name!r} of net holds NaN or infinity: train it again")
    halves = {name: weight.half() for name, weight in weights.items()}
    exact = all(torch.equal(halves[name].float(), weight) for name, weight in weights.items())
    # One key, since the serialiser writes several in any order.
    metadata = {"feature_net": json.dumps({"shape": net.shape, "classes": net.classes})}
    return safetensors.torch.save(halves if exact else weights, metadata)


def from_bytes(data: bytes, *, sha256: str | None = None) -> FeatureNet:
    """The net in the bytes that `to_bytes` gave, in evaluation mode and without gradients of its weights.

    sha256      what its `hash` must be.
    Raises      ValueError for bytes that are no feature net, or another one.
    """
    import safetensors.torch

    try:
        options = _options(data)
        with torch.device("meta"):  # takes no memory: the file's numbers are not believed yet
            net = FeatureNet(shape=tuple(options["shape"]), classes=options["classes"])
        weights = safetensors.torch.load(data)
        kinds = {weight.dtype for weight in weights.values()}
        if not kinds <= {torch.float16, torch.float32}:
            raise ValueError(f"its weights are {', '.join(map(str, kinds))}")
        net.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
        if not all(bool(weight.isfinite().all()) for weight in net.parameters()):
            raise ValueError("it holds NaN or infinity")
    except Exception as failure:  # the parser's own exceptions are of many kinds
        reason = " ".join(str(failure).split())
        raise ValueError(f"data is no feature net: {reason}; make the file again, or reinstall dither") from failure
    actual = hash(net)
    if sha256 is not None and actual != sha256:
        raise ValueError(
            f"data is a feature net of sha256 {actual}, expected {sha256}: take the right file, or reinstall dither"
        )
    return net.requires_grad_(False).eval()


def _weights(net: FeatureNet) -> dict[str, Tensor]:
    return {name: weight.detach().to("cpu", torch.float32).contiguous() for name, weight in net.state_dict().items()}


def _options(data: bytes) -> dict[str, Any]:
    """{"shape": ..., "classes": ...} from the header, which safetensors itself reads from files on disk only."""
    size = int.from_bytes(data[:8], "little")
    if not 8 + size <= len(data) or size > HEADER_CAP:
        raise ValueError(f"its header has {size} bytes")
    header = parse_json(data[8 : 8 + size], "the header")
    return parse_json(header["__metadata__"]["feature_net"].encode(), "feature_net")
