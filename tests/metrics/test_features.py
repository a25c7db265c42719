"""Feature nets against a convolution by loops, and their files and errors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from dither import data, metrics
from dither.experiments import feature_nets
from dither.metrics import _feature_files

FOLDER = Path(metrics.__file__).parent


def net_of(shape: tuple[int, ...], classes: int = 10, seed: int = 0) -> metrics.FeatureNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return metrics.FeatureNet(shape=shape, classes=classes)


def images(n: int, pixels: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, pixels, generator=torch.Generator().manual_seed(seed))


def slow(net: metrics.FeatureNet, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(features, logits) of one image in float64: every output pixel by itself."""
    weights = {name: weight.double().numpy() for name, weight in net.state_dict().items()}
    h = x.double().numpy().reshape(net.shape)
    for layer in ("convolution1", "convolution2"):
        kernel, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        size = kernel.shape[2]
        pad = 0 if min(net.shape[1:]) >= 16 else 1
        h = np.pad(h, ((0, 0), (pad, pad), (pad, pad)))
        height, width = h.shape[1] - size + 1, h.shape[2] - size + 1
        out = np.array([[[(h[:, i : i + size, j : j + size] * k).sum() + b for j in range(width)] for i in range(height)]
                        for k, b in zip(kernel, bias, strict=True)])  # fmt: skip
        out = np.maximum(out, 0)
        h = np.array(
            [[[c[i : i + 2, j : j + 2].max() for j in range(0, width - 1, 2)] for i in range(0, height - 1, 2)] for c in out]
        )
    hidden = weights["hidden.weight"] @ h.ravel() + weights["hidden.bias"]
    hidden = np.where(hidden > 0, hidden, 0.1 * hidden)
    return hidden, weights["output.weight"] @ hidden + weights["output.bias"]


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 4, 5), (1, 16, 19), (1, 28, 20)])
def test_against_a_convolution_by_loops(shape: tuple[int, ...]) -> None:
    net, x = net_of(shape, classes=3), images(2, int(np.prod(shape)))
    features, probabilities = net.features(x), net.probabilities(x)
    assert (features.shape, features.dtype, features.requires_grad) == ((2, 64), torch.float32, False)
    for i in range(2):
        hidden, logits = slow(net, x[i])
        assert np.allclose(features[i], hidden, rtol=0, atol=2e-6)
        share = np.exp(logits) / np.exp(logits).sum()
        assert np.allclose(probabilities[i], share, rtol=0, atol=2e-6)
    assert net.classify(x).tolist() == [int(slow(net, row)[1].argmax()) for row in x] and net.classify(x).dtype == torch.int64


def test_blocks_and_types_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = net_of((1, 8, 8)), images(23, 64).round()
    whole = net.features(x)
    monkeypatch.setattr("dither.metrics._features.BATCH", 7)
    assert torch.allclose(net.features(x), whole, atol=1e-6) and net.probabilities(x).shape == (23, 10)
    for dtype in (torch.float64, torch.uint8, torch.bool):
        assert torch.equal(net.features(x.to(dtype)), net.features(x))


def test_the_nets_of_the_package() -> None:
    test = data.digits().test
    net = metrics.feature_net("digits")
    assert float((net.classify(test.x) == test.y).double().mean()) == pytest.approx(0.9833, abs=0.004)  # one image is .0033
    for name, shape, cap in (("digits", (1, 8, 8), 60_000), ("mnist", (1, 28, 28), 200_000)):
        net, packed = metrics.feature_net(name), (FOLDER / f"{name}_features.safetensors").read_bytes()
        assert (net.shape, net.classes, net.training) == (shape, 10, False) and len(packed) < cap
        assert metrics.to_bytes(net) == packed, "stored in half precision, without loss"
        assert not any(weight.requires_grad or weight.dtype != torch.float32 for weight in net.parameters())


@pytest.mark.skipif(not os.environ.get("DITHER_DATA"), reason="DITHER_DATA names no folder of data; tests download nothing")
def test_the_mnist_net_on_the_test_images_and_on_blurred_ones() -> None:
    test, net = data.mnist().test, metrics.feature_net("mnist")
    assert float((net.classify(test.x) == test.y).double().mean()) > 0.985
    grey = torch.nn.functional.avg_pool2d(test.x[:2000].view(-1, 1, 28, 28), 3, stride=1, padding=1).flatten(1)
    assert float((net.classify(0.7 * grey) == test.y[:2000]).double().mean()) > 0.97


def test_the_hash_covers_all_that_computes() -> None:
    net = net_of((1, 28, 28))
    digest = hashlib.sha256(b"FeatureNet (1, 28, 28) 10\n")
    for name in sorted(net.state_dict()):
        weight = net.state_dict()[name].numpy()
        digest.update(f"{name} {weight.shape}\n".encode() + weight.tobytes())
    assert metrics.hash(net) == digest.hexdigest()
    other = net_of((1, 29, 29))
    other.load_state_dict(net.state_dict())  # of the same weights, but they see other images
    assert metrics.hash(other) != metrics.hash(net)
    with torch.no_grad():
        net.output.bias[3] += 1e-6
    assert metrics.hash(net) != digest.hexdigest()


@pytest.mark.parametrize("half", [True, False])
def test_bytes_and_back(half: bool) -> None:
    net = net_of((2, 9, 6), classes=4)
    if half:
        net.load_state_dict({name: weight.half().float() for name, weight in net.state_dict().items()})
    packed = metrics.to_bytes(net)
    assert packed == metrics.to_bytes(net)
    assert {w.dtype for w in safetensors.torch.load(packed).values()} == {torch.float16 if half else torch.float32}
    back = metrics.from_bytes(packed, sha256=metrics.hash(net))
    assert (back.shape, back.classes, metrics.hash(back)) == ((2, 9, 6), 4, metrics.hash(net))
    x = images(3, 108)
    assert torch.equal(back.features(x), net.features(x))


def changed(weights: dict[str, torch.Tensor], header: str = '{"shape": [1, 8, 8], "classes": 10}') -> bytes:
    return safetensors.torch.save(weights, {"feature_net": header})


WEIGHTS = {name: weight.detach() for name, weight in net_of((1, 8, 8)).state_dict().items()}


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\x80\x04K\x01.",
        b"\xff" * 100,
        (10**6).to_bytes(8, "little") + b" " * 10**6,
        changed(WEIGHTS)[:-1],
        changed(WEIGHTS) + b"\0",
        safetensors.torch.save(WEIGHTS),
        changed(WEIGHTS, "[1]"),
        changed(WEIGHTS, '{"shape": [1, 8, 8]}'),
        changed(WEIGHTS, '{"shape": [1, 8, 8], "classes": 11}'),
        changed(WEIGHTS, '{"shape": [1, 100000, 100000], "classes": 10}'),
        changed(WEIGHTS, '{"shape": [1, 8.0, 8], "classes": 10}'),
        changed({k: v for k, v in WEIGHTS.items() if k != "output.bias"}),
        changed({**WEIGHTS, "more": torch.zeros(1)}),
        changed({**WEIGHTS, "output.bias": torch.zeros(10, dtype=torch.int64)}),
        changed({**WEIGHTS, "output.bias": torch.full((10,), torch.nan)}),
    ],
)
def test_bytes_of_something_else_are_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"data is no feature net: .*reinstall dither"):
        metrics.from_bytes(packed)


def test_an_altered_net_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net = net_of((1, 8, 8))
    packed = bytearray(metrics.to_bytes(net))
    packed[-3] ^= 1
    with pytest.raises(ValueError, match=rf"sha256 [0-9a-f]{{64}}, expected {metrics.hash(net)}"):
        metrics.from_bytes(bytes(packed), sha256=metrics.hash(net))
    monkeypatch.setitem(_feature_files.TRAINED, "digits", "0" * 64)
    with pytest.raises(ValueError, match="expected 0000"):
        metrics.feature_net("digits")
    with torch.no_grad():
        net.output.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"the weight 'output.bias' of net holds NaN"):
        metrics.to_bytes(net)


GOOD = images(5, 64)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (GOOD * torch.nan, "x holds NaN or infinity"),
        (GOOD[:0], r"x has shape \(0, 64\)"),
        (GOOD.view(5, 8, 8), r"x has shape \(5, 8, 8\).*flatten"),
        (images(5, 560), "x has 560 pixels per image, but the net is for 1 x 8 x 8"),
        (255 * GOOD, r"x has values from .* expected \[0, 1\]: divide bytes by 255"),
        (2 * GOOD - 1, r"x has values from -.*\(x \+ 1\) / 2"),
        ([[0.0] * 64], "x is a list"),
    ],
)
def test_bad_images(x, message: str) -> None:
    net = net_of((1, 8, 8))
    for function in (net.features, net.probabilities, net.classify):
        with pytest.raises(ValueError, match=message):
            function(x)
    with pytest.raises(ValueError, match=message):
        metrics.train_feature_net(x, torch.zeros(5, dtype=torch.int64), (1, 8, 8), 10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda y: metrics.train_feature_net(GOOD, None, (1, 8, 8), 10), "y is None: a feature net learns from labels"),
        (lambda y: metrics.train_feature_net(GOOD, y.float(), (1, 8, 8), 10), "y is torch.float32"),
        (lambda y: metrics.train_feature_net(GOOD, y[:4], (1, 8, 8), 10), r"y has shape \(4,\), expected \(5,\)"),
        (lambda y: metrics.train_feature_net(GOOD, y + 6, (1, 8, 8), 10), "y reaches from 6 to 10, expected 0 to 9"),
        (lambda y: metrics.train_feature_net(GOOD, y, (1, 8, 8), 10, epochs=0), "epochs is 0"),
        (lambda y: metrics.train_feature_net(GOOD, y, (1, 8, 8), 10, batch_size=0), "batch_size is 0"),
        (lambda y: metrics.FeatureNet(shape=(8, 8)), r"shape is \(8, 8\)"),
        (lambda y: metrics.FeatureNet(shape=(1, 3, 8)), r"shape is \(1, 3, 8\).*at least 4 x 4"),
        (lambda y: metrics.FeatureNet(shape=(1, 8, 8), classes=1), "classes is 1"),
        (lambda y: metrics.feature_net("faces"), "there is no feature net 'faces'; choose one of mnist, digits"),
    ],
)
def test_other_bad_arguments(call: Callable[[torch.Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.arange(5))


def test_the_experiment_writes_what_can_be_read(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    notes: list[str] = []
    try:
        config = feature_nets.Config(data=("digits",), epochs=1, threads=1)
        [row] = feature_nets.run(config, tmp_path / "new", notes.append)["rows"]
    finally:
        torch.set_num_threads(threads)
    net = metrics.from_bytes((tmp_path / "new" / "digits_features.safetensors").read_bytes(), sha256=row["sha256"])
    test = data.digits().test
    assert row["test_accuracy"] == round(float((net.classify(test.x) == test.y).double().mean()), 4)
    assert row["parameters"] == sum(weight.numel() for weight in net.parameters()) == 13_706
    assert set(row) == {"data", "test_accuracy", "parameters", "sha256", "seconds"} and len(notes) == 1
    with pytest.raises(ValueError, match="no labelled images 'frey'"):
        feature_nets.run(feature_nets.Config(data=("frey",)), tmp_path)
