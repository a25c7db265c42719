"""Variational autoencoders with a hard latent code: binary units, or units of one category out of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither import kernels
from dither.nodes import Bernoulli, Categorical

Prior = Literal["fixed", "learned"]
KL = Literal["analytic", "sampled"]


class _DiscreteVAE(nn.Module):
    """An encoder of pixels into logits, one layer of nodes, a decoder into Bernoulli pixels; what both kinds share."""

    node: nn.Module
    prior_logits: Tensor

    def __init__(self, sizes: tuple[int, ...], code: tuple[int, ...], slope: float, prior: Prior, kl: KL) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(
                f"sizes is {sizes}, expected at least two positive widths (pixels, hidden..., latents): "
                "pass for example sizes=(784, 200, 200, 200)"
            )
        for name, value, known in (("prior", prior, ("fixed", "learned")), ("kl", kl, ("analytic", "sampled"))):
            if value not in known:
                raise ValueError(f"{name} is {value!r}: it must be {known[0]!r} or {known[1]!r}")
        self.sizes, self.code, self.kl = sizes, code, kl
        self.encoder = perceptron(sizes, slope)
        self.decoder = perceptron(sizes[::-1], slope)
        if prior == "learned":
            self.prior_logits = nn.Parameter(torch.zeros(code))  # ambient: a layer's parameters
        else:
            self.register_buffer("prior_logits", torch.zeros(code))  # ambient: the same

    def cost(self, x: Tensor) -> Tensor:
        """The negative evidence bound of each example by one sample of the code: x (batch, ...) -> (batch,), nats."""
        x, logits = self._encoded(x)
        z = self.node(logits)
        divergence = self._divergence(logits) if self.kl == "analytic" else self._log_ratio(logits.detach(), z)
        return divergence + self._distortion(z, x)

    def log_weights(self, x: Tensor) -> Tensor:
        """log p(x, z) - log q(z | x) of one fresh sample z of each example: x (batch, ...) -> (batch,)."""
        x, logits = self._encoded(x)
        z = self.node(logits)
        return -self._log_ratio(logits, z) - self._distortion(z, x)

    @torch.no_grad()
    def bound(self, x: Tensor, samples: int) -> Tensor:
        """The log of the mean of `samples` importance weights, (batch,). For evaluation: it has no gradient.

        In expectation it is at most log p(x), and the closer the more samples (Burda et al. 2016).
        """
        if samples < 1:
            raise ValueError(f"samples is {samples}: the bound needs at least one; 100 is usual")
        x, logits = self._encoded(x)
        total = None
        for _ in range(samples):
            z = self.node(logits)
            weight = -self._log_ratio(logits, z) - self._distortion(z, x)
            total = weight if total is None else torch.logaddexp(total, weight)
        assert total is not None
        return total - math.log(samples)

    def decode(self, z: Tensor) -> Tensor:
        """The logits of the pixels of a code: z (batch, *code) -> (batch, pixels)."""
        return self.decoder(z.flatten(1))

    def encode(self, x: Tensor) -> Tensor:
        """The logits of the code of x: (batch, ...) -> (batch, *code)."""
        return self._encoded(x)[1]

    def _encoded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flatten(1)
        if x.shape[1] != self.sizes[0]:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, that is {x.shape[1]} pixels per example; this model was "
                f"built for {self.sizes[0]}: build it with sizes=({x.shape[1]}, ...) or give it other data"
            )
        return x, self.encoder(self._centred(x)).unflatten(1, self.code)

    def _centred(self, x: Tensor) -> Tensor:
        return x

    def _distortion(self, z: Tensor, x: Tensor) -> Tensor:
        """-log p(x | z), for grey pixels the cross-entropy."""
        logits = kernels.widen(self.decode(z))
        # = binary_cross_entropy_with_logits, which vmap takes apart into a dozen passes over the pixels.
        return ((1 - x) * logits).sum(1) - F.logsigmoid(logits).sum(1)

    def _divergence(self, logits: Tensor) -> Tensor:
        """KL(q || p), summed over the units."""
        raise NotImplementedError

    def _log_ratio(self, logits: Tensor, z: Tensor) -> Tensor:
        """log q(z) - log p(z), linear in z: its gradient with respect to z is the difference that a flip makes."""
        raise NotImplementedError


class BinaryVAE(_DiscreteVAE):
    """pixels -> encoder -> Bernoulli code -> decoder -> Bernoulli pixels, the network of the papers on binary latents.

    Computes    cost(x) = log q(z | x) - log p(z) - log p(x | z) for a z ~ q(z | x), with the negative bound as its
                mean.
    Shapes      x (batch, ...) with prod(...) == sizes[0]  ->  cost (batch,); code (batch, sizes[-1])
    sizes       the encoder's; the decoder has them backwards. Two sizes are the linear model.
    kl          "analytic": the first two terms are their exact mean, sum_i KL(q_i || p_i). They do not depend on z. An
                estimator that credits samples by costs, or differentiates the cost by z, sees log p(x | z) alone; the
                rest reaches the encoder by plain back-propagation. Less variance, the same mean.
                "sampled": the terms are taken at z, as in the papers. So they are part of the cost that is credited,
                and of the gradient with respect to z_i: a_i - c_i (logits of encoder and prior). The derivative of
                log q(z | x) by the encoder at a fixed z has mean zero under q, and is left out (Roeder et al. 2017).
    prior       "fixed": fair coins; "learned": a logit for each unit, zero at first.
    mean        (sizes[0],), the mean of the training pixels. It is subtracted from the input, and its logit is the
                first bias of the output: options of DisARM's code (which then also feeds the decoder 2 z - 1). None:
                neither, as in RODEO's.
    Start       Glorot-uniform weights and zero biases, as in both.
    Raises      ValueError for other options, sizes, or an input of another width.
    Reference   Dong, Mnih and Tucker 2020 (DisARM) and Shi et al. 2022 (RODEO), by their public code.

    >>> import torch, dither
    >>> model = BinaryVAE((784, 200, 200, 200))
    >>> estimator = dither.ScoreFunction(model, baseline="leave-one-out", samples=2)
    >>> x = torch.rand(5, 1, 28, 28).bernoulli()
    >>> estimator(lambda: model.cost(x)).backward()
    >>> model.bound(x, samples=10).shape
    torch.Size([5])
    """

    mean: Tensor | None

    def __init__(
        self,
        sizes: Sequence[int] = (784, 200, 200, 200),
        *,
        slope: float = 0.3,
        prior: Prior = "fixed",
        kl: KL = "analytic",
        mean: Tensor | None = None,
    ) -> None:
        sizes = tuple(sizes)
        super().__init__(sizes, sizes[-1:], slope, prior, kl)
        self.node = Bernoulli()
        for layer in (*self.encoder, *self.decoder):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        if mean is not None and mean.shape != sizes[:1]:
            raise ValueError(f"mean has shape {tuple(mean.shape)}, expected {sizes[:1]}: pass train.x.mean(0)")
        self.register_buffer("mean", mean)
        if mean is not None:
            with torch.no_grad():
                # A pixel that is always off would start at -inf; .001 is rarer than one ink speck in a thousand images.
                self.decoder[-1].get_parameter("bias").copy_(torch.logit(mean, eps=1e-3))

    def _centred(self, x: Tensor) -> Tensor:
        return x if self.mean is None else x - self.mean

    def _divergence(self, logits: Tensor) -> Tensor:
        return (_log_ratio(logits, torch.sigmoid(logits), self.prior_logits)).sum(1)

    def _log_ratio(self, logits: Tensor, z: Tensor) -> Tensor:
        return _log_ratio(logits, z, self.prior_logits).sum(1)


class CategoricalVAE(_DiscreteVAE):
    """pixels -> encoder -> `units` one-of-`categories` -> decoder -> Bernoulli pixels.

    Computes    cost(x) as in `BinaryVAE`; grey pixels are allowed, as targets of the cross-entropy.
    Shapes      x (batch, ...) with prod(...) == sizes[0]  ->  cost (batch,); code (batch, units, categories), one-hot
    sizes       the encoder's, without the code; the decoder has them backwards.
    kl, prior   as in `BinaryVAE`; the prior is uniform at first.
    Start       torch's own initialisation.
    Reference   Liu et al. 2023 (ReinMax); widths and slope are those of a later comparison (Hooper & Shekhovtsov 2026).

    >>> import torch
    >>> CategoricalVAE(units=8, categories=4).cost(torch.rand(5, 784)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        sizes: Sequence[int] = (784, 512, 256),
        *,
        units: int = 32,
        categories: int = 16,
        slope: float = 0.2,
        prior: Prior = "fixed",
        kl: KL = "analytic",
    ) -> None:
        if units < 1 or categories < 2:
            raise ValueError(f"units={units}, categories={categories}: at least one unit of at least two categories is needed")
        super().__init__((*sizes, units * categories), (units, categories), slope, prior, kl)
        self.node = Categorical()

    def _divergence(self, logits: Tensor) -> Tensor:
        return self._log_ratio(logits, torch.softmax(logits, -1))

    def _log_ratio(self, logits: Tensor, z: Tensor) -> Tensor:
        ratio = torch.log_softmax(logits, -1) - torch.log_softmax(self.prior_logits, -1)
        return (z * ratio).sum((1, 2))


def perceptron(sizes: Sequence[int], slope: float) -> nn.Sequential:
    """Linear layers of these widths with LeakyReLU(slope) between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.LeakyReLU(slope)]
    return nn.Sequential(*layers[:-1])


def _log_ratio(logits: Tensor, h: Tensor, prior: Tensor) -> Tensor:
    """log q(h) - log p(h) per unit for h in {0, 1}; at the mean h = sigmoid(logits) it is KL(q || p)."""
    return h * (logits - prior) - F.softplus(logits) + F.softplus(prior)
