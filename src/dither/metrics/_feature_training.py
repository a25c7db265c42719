"""Training a feature net: a few epochs, on shifted, blurred and noisy images, so that it knows grey means."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dither.metrics._features import BATCH, LARGE, UNITS, FeatureNet, checked

LEARNING_RATE = 2e-3  # at first; it falls linearly to 0
NOISE = 0.2  # greatest standard deviation


def train_feature_net(
    x: Tensor,
    y: Tensor | None,
    shape: tuple[int, ...],
    classes: int,
    *,
    seed: int = 0,
    epochs: int = 4,
    batch_size: int = 64,
) -> FeatureNet:
    """A feature net that has learned to classify x, in evaluation mode; its weights are exact in half precision.

    Computes    `epochs` of Adam on the cross-entropy. Each batch is shifted by up to a pixel either way; each image is
                mixed with its 3 x 3 means by a share uniform in [0, 1], and gets Gaussian noise of a standard deviation
                uniform in [0, .2], cut off at 0 and 1. Images below 16 x 16, of which a pixel is a larger part, are
                shifted every other time, and mixed up to 1/2. In the end the features are scaled to a mean square of 1
                over x, which changes no class: the kernel of `kid` supposes numbers of that size. The features tend to
                ignore what the augmentation does: evaluate noise and blur on pixels as well.
    epochs      55,000 images of 28 x 28 take about 10 s for each on one core. A set of a thousand needs some 60 of
                them, in batches of 32.
    seed        of weights, order and augmentation; the global generator is left as it was. The same seed gives the same
                bits on the same machine with the same number of threads (torch.set_num_threads), and elsewhere another
                net as good.
    Shapes      x (n, pixels) in [0, 1], y (n,) whole numbers from 0 to classes - 1
    Raises      ValueError for other x or y, and for no labels at all (y None).
    """
    if y is None:
        raise ValueError(
            "y is None: a feature net learns from labels. For images without any, use the features of a net for other images "
            "(feature_net, after resizing yours to its shape), or raw pixels"
        )
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} is {value!r}: a whole number of at least 1 is needed")
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):  # all random numbers here come from the CPU
        torch.manual_seed(seed)
        net = FeatureNet(shape=shape, classes=classes)
        images = checked(x, net.shape).float().view(-1, *net.shape).cpu()
        labels = _labels(y, len(images), classes)
        optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
        steps = epochs * math.ceil(len(images) / batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(images), dtype=torch.int64, device="cpu").split(batch_size):
                loss = F.cross_entropy(net(augmented(images[rows])), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    net.requires_grad_(False).eval()
    _scale(net, images)
    for weight in net.parameters():
        weight.copy_(weight.half())
    return net


def augmented(images: Tensor) -> Tensor:
    """images (n, channels, height, width), changed as `train_feature_net` says, by the global generator."""
    height, width = images.shape[2:]
    strength = 1.0 if min(height, width) >= LARGE else 0.5
    if float(torch.rand((), dtype=torch.float32, device="cpu")) < strength:
        down, right = torch.randint(3, (2,), dtype=torch.int64, device="cpu").tolist()
        images = F.pad(images, (1, 1, 1, 1))[:, :, down : down + height, right : right + width]
    share, deviation = torch.rand(2, len(images), 1, 1, 1, dtype=torch.float32, device="cpu")
    images = torch.lerp(images, F.avg_pool2d(images, 3, stride=1, padding=1), strength * share)
    return (images + NOISE * deviation * torch.randn_like(images)).clamp(0, 1)


def _scale(net: FeatureNet, images: Tensor) -> None:
    square = sum(float(net.hidden_of(part).double().square().sum()) for part in images.split(BATCH)) / (len(images) * UNITS)
    factor = math.sqrt(square)  # the leaky ReLU between passes a positive factor on
    for weight in net.hidden.parameters():
        weight.div_(factor)
    net.output.weight.mul_(factor)


def _labels(y: Tensor, count: int, classes: int) -> Tensor:
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex():
        raise ValueError(f"y is {y.dtype if isinstance(y, Tensor) else type(y).__name__}: a tensor of whole numbers is needed")
    if y.shape != (count,):
        raise ValueError(f"y has shape {tuple(y.shape)}, expected ({count},): one label for each image")
    y = y.detach().long().cpu()
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise ValueError(
            f"y reaches from {int(y.min())} to {int(y.max())}, expected 0 to {classes - 1}: pass the right classes"
        )
    return y
