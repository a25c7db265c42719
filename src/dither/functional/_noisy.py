"""Semi-hard units: noise enters a non-linearity that is flat somewhere, and ordinary back-propagation goes through
(Bengio 2013, Sec. 2). For fixed noise the gradient is exact almost everywhere, so its mean is unbiased."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Size = int | tuple[int, int]


def noisy_relu(logits: Tensor, noise: Tensor, *, scale: float = 1.0) -> Tensor:
    """max(0, a + scale z). noise: standard normal, the shape of logits; scale: standard deviation in units of a."""
    return F.relu(logits + scale * noise.to(logits.dtype))


def noisy_tanh(logits: Tensor, noise: Tensor, *, before: float = 1.0, after: float = 0.0) -> Tensor:
    """tanh(a + before z_1) + after z_2 (the hidden unit of generative stochastic networks).

    noise: standard normal, shape (*logits.shape, 2), z_1 and z_2 in the last dimension.
    """
    first, second = noise.to(logits.dtype).unbind(-1)
    return torch.tanh(logits + before * first) + after * second


def noisy_max_pool2d(
    logits: Tensor, noise: Tensor, kernel_size: Size, *, stride: Size | None = None, scale: float = 1.0
) -> Tensor:
    """max over windows of (a + scale z). logits: (batch, channels, height, width); noise: standard normal, same shape."""
    return F.max_pool2d(logits + scale * noise.to(logits.dtype), kernel_size, stride)


def windows(x: Tensor, kernel_size: Size, *, stride: Size | None = None) -> Tensor:
    """(batch, channels, height, width) -> (batch, channels, rows, columns, kernel area), pooling windows without padding."""
    kh, kw = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    sh, sw = (stride, stride) if isinstance(stride, int) else stride or (kh, kw)
    return x.unfold(2, kh, sh).unfold(3, kw, sw).flatten(-2)


def stochastic_pool2d_sample(x: Tensor, noise: Tensor, kernel_size: Size, *, stride: Size | None = None) -> Tensor:
    """Index, within each window, of an activation drawn with probability x_i / sum x; int64 (batch, channels, rows, columns).

    x must be >= 0; a window of zeros draws uniformly, one with NaN, infinite or negative values gives index 0 (and
    `stochastic_pool2d` NaN). noise: uniform, shape (batch, channels, rows, columns).
    """
    weights = stochastic_pool2d_probabilities(x.detach(), kernel_size, stride=stride)
    passed = (torch.cumsum(weights, -1) <= noise.unsqueeze(-1)).sum(-1)
    # rounding may leave the last cumulative sum below the noise: fall back to the last activation that is possible
    last = weights.shape[-1] - 1 - (weights.flip(-1) > 0).to(torch.int8).argmax(-1)
    return torch.minimum(passed, last)


def stochastic_pool2d_probabilities(x: Tensor, kernel_size: Size, *, stride: Size | None = None) -> Tensor:
    """x_i / sum x in each window (uniform where the sum is 0, NaN where a value is negative); float32 or wider."""
    w = windows(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, kernel_size, stride=stride)
    total = torch.where((w < 0).any(-1, keepdim=True), torch.nan, w.sum(-1, keepdim=True))
    empty = total == 0
    return torch.where(empty, torch.full_like(w, 1 / w.shape[-1]), w / torch.where(empty, torch.ones_like(total), total))


def stochastic_pool2d(x: Tensor, noise: Tensor, kernel_size: Size, *, stride: Size | None = None) -> Tensor:
    """Stochastic pooling: the activation at an index drawn by `stochastic_pool2d_sample`; the gradient goes to it alone.

    That gradient ignores how x moves the probabilities, so it is biased. Reference: Zeiler & Fergus 2013.
    """
    index = stochastic_pool2d_sample(x, noise, kernel_size, stride=stride)
    return stochastic_pool2d_pick(x, index, kernel_size, stride=stride)


def stochastic_pool2d_pick(x: Tensor, index: Tensor, kernel_size: Size, *, stride: Size | None = None) -> Tensor:
    """The activation at the drawn index of each window; NaN where the window has no probabilities."""
    picked = windows(x, kernel_size, stride=stride).gather(-1, index.unsqueeze(-1)).squeeze(-1)
    p = stochastic_pool2d_probabilities(x.detach(), kernel_size, stride=stride)
    return torch.add(picked, p.sum(-1).to(x.dtype), alpha=0)  # + 0 p carries NaN


def stochastic_pool2d_mean(x: Tensor, kernel_size: Size, *, stride: Size | None = None) -> Tensor:
    """The expected activation sum x_i^2 / sum x of each window, the paper's rule at test time."""
    probabilities = stochastic_pool2d_probabilities(x, kernel_size, stride=stride)
    return (probabilities * windows(x, kernel_size, stride=stride)).sum(-1).to(x.dtype)
