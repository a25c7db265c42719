from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dither import functional
from dither.functional import Size
from dither.nodes.checks import check_logits, is_concrete
from dither.nodes.node import Node, Sampler


def _check_image(node: NoisyMaxPool2d | StochasticPool2d, x: Tensor) -> None:
    name = type(node).__name__
    if not isinstance(x, Tensor):
        check_logits(node, x)
    if x.dim() != 4:
        raise ValueError(f"{name}: input has shape {tuple(x.shape)}; (batch, channels, height, width) is needed")
    kernel = (node.kernel_size,) * 2 if isinstance(node.kernel_size, int) else node.kernel_size
    if x.shape[2] < kernel[0] or x.shape[3] < kernel[1]:
        raise ValueError(
            f"{name}: kernel_size {kernel} does not fit an input of {x.shape[2]} x {x.shape[3]}; use a smaller kernel"
        )


class NoisyMaxPool2d(Node):
    """Max-pooling of noisy inputs, max over windows of (a + scale z): (batch, channels, height, width) images.

    The gradient goes to the winner and is unbiased. kernel_size, stride: as in `torch.nn.MaxPool2d`; scale: standard
    deviation of the noise. `deterministic` gives plain max-pooling. Source: Bengio 2013, Sec. 2.
    """

    discrete = False
    noise_kind = "normal"
    elementwise = False
    former_order = ("stride", "scale")

    def __init__(self, kernel_size: Size, *, stride: Size | None = None, scale: float = 1.0) -> None:
        super().__init__()
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale is {scale}: it must be positive and finite; use torch.nn.MaxPool2d for no noise")
        self.kernel_size, self.stride, self.scale = kernel_size, stride, scale

    def forward(self, logits: Tensor) -> Tensor:
        _check_image(self, logits)
        return super().forward(logits)

    def propagate(self, logits: Tensor, noise: Tensor, sampler: Sampler | None = None) -> Tensor:
        return functional.noisy_max_pool2d(logits, noise, self.kernel_size, stride=self.stride, scale=self.scale)

    def mean(self, logits: Tensor) -> Tensor:
        return F.max_pool2d(logits, self.kernel_size, self.stride)

    mode = mean


class StochasticPool2d(Node):
    """Pooling that picks an activation with probability proportional to it: (batch, channels, height, width), all >= 0.

    Put it behind a rectifier. With no estimator running the gradient goes to the sampled activation only (biased); the
    score function also credits the choice, and is unbiased. `deterministic("mean")` is the probability-weighted average
    of the paper's test rule, "mode" is max-pooling. Reference: Zeiler & Fergus 2013.
    """

    discrete = True
    elementwise = False
    former_order = ("stride",)

    def __init__(self, kernel_size: Size, *, stride: Size | None = None) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, logits: Tensor) -> Tensor:
        _check_image(self, logits)
        if is_concrete(logits) and logits.device.type == "cpu" and bool((logits < 0).any()):
            raise ValueError(
                f"StochasticPool2d: the input has negative values (minimum: {float(logits.min()):.3g}), but activations are "
                "the weights of the choice; put a rectifier before it"
            )
        return super().forward(logits)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return functional.stochastic_pool2d_probabilities(logits, self.kernel_size, stride=self.stride)

    def noise_shape(self, logits: Tensor) -> tuple[int, ...]:
        return tuple(functional.windows(logits.detach(), self.kernel_size, stride=self.stride).shape[:-1])

    def propagate(self, logits: Tensor, noise: Tensor, sampler: Sampler | None = None) -> Tensor:
        return functional.stochastic_pool2d(logits, noise, self.kernel_size, stride=self.stride)

    def mean(self, logits: Tensor) -> Tensor:
        return functional.stochastic_pool2d_mean(logits, self.kernel_size, stride=self.stride)

    def mode(self, logits: Tensor) -> Tensor:
        return F.max_pool2d(logits, self.kernel_size, self.stride)

    def unit_shape(self, logit_shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.noise_shape(torch.empty((1, *logit_shape), device="meta", dtype=torch.float32))[1:]

    def sample(self, logits: Tensor, noise: Tensor) -> Tensor:
        return functional.stochastic_pool2d_sample(logits, noise, self.kernel_size, stride=self.stride)

    def output(self, logits: Tensor, sample: Tensor) -> Tensor:
        return functional.stochastic_pool2d_pick(logits, sample, self.kernel_size, stride=self.stride)

    def log_prob(self, logits: Tensor, sample: Tensor) -> Tensor:
        return torch.log(self._probabilities(logits).gather(-1, sample.unsqueeze(-1)).squeeze(-1))

    def score_weight(self, logits: Tensor, sample: Tensor) -> Tensor:
        p = self._probabilities(logits.detach())
        one_hot = sample.unsqueeze(-1) == torch.arange(p.shape[-1], device=p.device, dtype=torch.int64)
        return (one_hot.to(p.dtype) - p).square().sum(-1)

    def partition(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        p = self._probabilities(logits).movedim(-1, 0)
        middle = (torch.cumsum(p, 0) - p / 2).detach()
        # log 0 has no finite derivative, and 0 times it would be NaN: an activation of 0 is a constant impossibility
        possible = p > 0
        return middle, torch.where(possible, torch.log(torch.where(possible, p, 1)), -torch.inf)
