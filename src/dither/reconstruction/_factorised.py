"""Factorised distributions: given the outputs, units (or one-hot variables) are independent."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dither import functional, kernels, nodes, noise
from dither.kernels import widen
from dither.reconstruction._base import Reconstruction, check_finite, check_fit


def clamped(sample: Tensor, clamp: Tensor | None, values: Tensor | None) -> Tensor:
    """The sample with the clamped units put back. Where units are independent, that is a sample given these."""
    return sample if clamp is None or values is None else torch.where(clamp, values.to(sample.dtype), sample)


class Bernoulli(Reconstruction):
    """P(x | outputs) = prod sigmoid(a)^x sigmoid(-a)^(1 - x), the outputs being logits a.

    For grey x in [0, 1] `log_prob` is minus the cross-entropy: its mean over binary x with these probabilities.
    A `dither.Bernoulli` node samples, so that an estimator can credit the sample (`through_samples` of models).
    """

    factorised = True

    def __init__(self) -> None:
        super().__init__()
        self.node = nodes.Bernoulli()

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        a = widen(outputs)
        x = x.to(a.dtype)
        if x.shape != a.shape:
            check_fit(self, outputs, x)
        return kernels.bernoulli_log_prob(a, x)

    def terms(self, outputs: Tensor, x: Tensor) -> Tensor:
        check_fit(self, outputs, x)
        a = widen(outputs)
        return kernels.bernoulli_terms(a, x.to(a.dtype))

    def mean(self, outputs: Tensor) -> Tensor:
        return torch.sigmoid(widen(outputs))

    def sample_unchecked(self, outputs: Tensor, clamp: Tensor | None, values: Tensor | None) -> Tensor:
        return clamped(self.node(widen(outputs)), clamp, values)

    def check(self, x: Tensor) -> None:
        low, high = (float(v) for v in torch.aminmax(x.detach()))
        if not (low >= 0 and high <= 1):
            raise ValueError(f"x runs from {low:.4g} to {high:.4g}: a Bernoulli reconstruction needs [0, 1]; rescale the data")


class Gaussian(Reconstruction):
    """P(x | outputs) = N(mu, scale^2) per unit. scale: a number; or None, and the network gives log scale behind mu.

    outputs     (batch, units), or (batch, 2 units) = (mu, log scale) with scale=None
    """

    factorised = True

    def __init__(self, scale: float | None = 1.0) -> None:
        super().__init__()
        if scale is not None and not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale is {scale}: a positive, finite number is needed, or None to learn it")
        self.scale = scale

    def extra_repr(self) -> str:
        return f"scale={self.scale}"

    def outputs(self, units: int) -> int:
        return units if self.scale is not None else 2 * units

    def parameters_of(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log scale), each (batch, units)."""
        outputs = widen(outputs)
        if self.scale is None:
            mean, log_scale = outputs.chunk(2, -1)
            return mean, log_scale
        return outputs, torch.full_like(outputs, math.log(self.scale))

    def terms(self, outputs: Tensor, x: Tensor) -> Tensor:
        check_fit(self, outputs, x)
        mean, log_scale = self.parameters_of(outputs)
        z = (x - mean) * torch.exp(-log_scale)
        return -z.square() / 2 - log_scale - math.log(2 * math.pi) / 2

    def mean(self, outputs: Tensor) -> Tensor:
        return self.parameters_of(outputs)[0]

    def sample_unchecked(self, outputs: Tensor, clamp: Tensor | None, values: Tensor | None) -> Tensor:
        mean, log_scale = self.parameters_of(outputs)
        z = noise.fresh("normal", tuple(mean.shape), mean.device).draw(mean)
        return clamped(mean + torch.exp(log_scale) * z.to(mean.dtype), clamp, values)

    def check(self, x: Tensor) -> None:
        check_finite(x)


class Categorical(Reconstruction):
    """One-hot variables of `categories` values: P(x | outputs) = prod softmax(outputs of the variable)[value].

    x, outputs  (batch, variables * categories)
    """

    factorised = True

    def __init__(self, categories: int) -> None:
        super().__init__()
        if type(categories) is not int or categories < 2:
            raise ValueError(f"categories is {categories!r}: an integer of at least 2 is needed")
        self.categories, self.node = categories, nodes.Categorical()

    def extra_repr(self) -> str:
        return f"categories={self.categories}"

    def outputs(self, units: int) -> int:
        if units % self.categories:
            raise ValueError(f"{units} units are no multiple of categories={self.categories}: give one-hot variables")
        return units

    def shaped(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.outputs(x.shape[-1]) // self.categories, self.categories))

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        return self._of_variables(outputs, x).sum(-1)

    def terms(self, outputs: Tensor, x: Tensor) -> Tensor:
        return torch.where(self.shaped(x) < 0.5, 0.0, self._of_variables(outputs, x).unsqueeze(-1)).flatten(-2)

    def _of_variables(self, outputs: Tensor, x: Tensor) -> Tensor:
        check_fit(self, outputs, x)
        x = self.shaped(x)
        return torch.add(functional.categorical_log_prob(self.shaped(outputs), x), x.sum(-1), alpha=0)  # carries NaN

    def mean(self, outputs: Tensor) -> Tensor:
        return self.node.mean(self.shaped(widen(outputs))).flatten(-2)

    def sample_unchecked(self, outputs: Tensor, clamp: Tensor | None, values: Tensor | None) -> Tensor:
        if clamp is not None and kernels.readable(clamp) and (self.shaped(clamp).any(-1) != self.shaped(clamp).all(-1)).any():
            raise ValueError(f"clamp splits a one-hot variable: clamp all of its {self.categories} entries, or none")
        return clamped(self.node(self.shaped(widen(outputs))).flatten(-2), clamp, values)

    def check(self, x: Tensor) -> None:
        if not (((x == 0) | (x == 1)).all() and (self.shaped(x).sum(-1) == 1).all()):
            raise ValueError(
                f"x is not one-hot in every {self.categories} units, as a Categorical reconstruction needs; "
                "use torch.nn.functional.one_hot(index, categories).flatten(1)"
            )
