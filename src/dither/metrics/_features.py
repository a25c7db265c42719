"""A small convolutional classifier in whose features and labels samples are evaluated."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither.metrics._distances import points

UNITS = 64  # features
CHANNELS = (16, 32)
SLOPE = 0.1  # of features below 0: with none, a third of them never came to life
LARGE = 16  # pixels on the shorter side, from which on the kernels are 5 and 3 without padding; below, 3 and 3 with
MIN_SIDE = 4  # pixels on the shorter side: two poolings leave one
BATCH = 1000  # images at a time: some 50 MB of activations for 28 x 28


class FeatureNet(nn.Module):
    """Two convolutions with pooling, a layer of 64 features, and a linear classifier on top of it.

    Computes    features = conv(16) - max-pool 2 - ReLU - conv(32) - max-pool 2 - ReLU - linear(64) - leaky ReLU, and
                the logits linear(classes) of them. For images of 16 x 16 and more the kernels are 5 x 5 and 3 x 3,
                below both are 3 x 3 with padding.
    Shapes      `shape` (channels, height, width), at least 4 x 4; the methods take x (n, pixels) with values in [0, 1]
                (grey means rather than samples, where a model gives means) and run without gradients, in blocks of
                1000.
    Its initial weights are torch's own, of the global generator. A trained one: `feature_net`, `train_feature_net`.
    Numbers taken with two nets do not compare: state `hash(net)` beside them.
    Raises      ValueError for shapes it cannot have, and for x with NaN, infinity, another width or values outside
                [0, 1].
    """

    def __init__(self, *, shape: tuple[int, ...] = (1, 28, 28), classes: int = 10) -> None:
        super().__init__()
        shape = tuple(shape)
        if len(shape) != 3 or any(type(side) is not int for side in shape) or shape[0] < 1 or min(shape[1:]) < MIN_SIDE:
            raise ValueError(f"shape is {shape}, expected (channels, height, width) of at least {MIN_SIDE} x {MIN_SIDE} pixels")
        if type(classes) is not int or classes < 2:
            raise ValueError(f"classes is {classes!r}: a whole number of at least 2 is needed")
        self.shape, self.classes = shape, classes
        large = min(shape[1:]) >= LARGE
        first, second = CHANNELS
        options = {"padding": 0 if large else 1, "dtype": torch.float32}
        self.convolution1 = nn.Conv2d(shape[0], first, 5 if large else 3, **options)
        self.convolution2 = nn.Conv2d(first, second, 3, **options)
        sides = [((side - 4) // 2 - 2) // 2 if large else side // 2 // 2 for side in shape[1:]]
        self.hidden = nn.Linear(second * math.prod(sides), UNITS, dtype=torch.float32)
        self.output = nn.Linear(UNITS, classes, dtype=torch.float32)

    def forward(self, images: Tensor) -> Tensor:
        """images (n, *shape) -> logits (n, classes); differentiable, and nothing is checked."""
        return self.output(self.hidden_of(images))

    def hidden_of(self, images: Tensor) -> Tensor:
        h = F.max_pool2d(self.convolution1(images), 2).relu()  # pooled first: the same numbers as ReLU first, with fewer to do
        h = F.max_pool2d(self.convolution2(h), 2).relu()
        return F.leaky_relu(self.hidden(h.flatten(1)), SLOPE)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """x (n, pixels) -> (n, 64) float32."""
        return torch.cat([self.hidden_of(images) for images in self._batches(x)])

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """x (n, pixels) -> P(class | x) (n, classes) float32."""
        return torch.cat([self(images).softmax(1) for images in self._batches(x)])

    def classify(self, x: Tensor) -> Tensor:
        """x (n, pixels) -> the most probable class (n,) int64."""
        return self.probabilities(x).argmax(1)

    def _batches(self, x: Tensor) -> Iterator[Tensor]:
        weight = self.output.weight
        for part in checked(x, self.shape).split(BATCH):
            yield part.to(weight.device, weight.dtype).view(-1, *self.shape)


def checked(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x, if it is (n, pixels) of such images with values in [0, 1]."""
    x = points("x", x)
    if x.shape[1] != math.prod(shape):
        raise ValueError(
            f"x has {x.shape[1]} pixels per image, but the net is for {' x '.join(map(str, shape))}: use a net trained on such "
            "images (train_feature_net), or pad or resize x"
        )
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"x has values from {low:.3g} to {high:.3g}, expected [0, 1]: divide bytes by 255, map signs by (x + 1) / 2"
        )
    return x
