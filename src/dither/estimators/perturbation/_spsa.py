from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from dither import noise
from dither.estimators.core.nesting import returned
from dither.estimators.core.shapes import batch_mean
from dither.estimators.core.site import Closure
from dither.estimators.perturbation.perturbing import Perturbing, with_gradient
from dither.settings import did_you_mean

_CHUNK = 1 << 20  # elements of a direction that are drawn at once: the generator's workspace is some tens of bytes for each


class SPSA(Perturbing):
    """Simultaneous perturbation: the derivative of the cost along a random direction of all parameters, times that direction.

    >>> import torch, dither
    >>> net = torch.nn.Sequential(dither.Bernoulli(), torch.nn.Linear(1, 1, bias=False)).double()
    >>> _ = torch.nn.init.constant_(net[1].weight, 3)
    >>> certain = torch.full((1, 1), torch.inf, dtype=torch.float64)
    >>> estimator = dither.SPSA(net)
    >>> estimator(lambda: torch.tensor([net(certain).item() ** 2], dtype=torch.float64)).backward()  # it has left torch
    >>> round(net[1].weight.grad.item(), 6), net[1].weight.item(), estimator.evaluations  # exact for a quadratic cost
    (6.0, 3.0, 2)

    Estimates   d E[L] / d theta for every parameter of the model with requires_grad; bias O(scale^2) (central differences).
    Formula     (L(theta + c D) - L(theta - c D)) / (2 c) D                                                          (1)
                c = scale, D of independent +-1 ("rademacher") or standard normal entries; mean over the batch and K / 2
                pairs of samples, each with a direction of its own. With the normal it is exactly unbiased for the cost smoothed
                by that noise, E_D[E[L(theta + c D)]].
    Noise       both evaluations of a pair have the same noise in the nodes. Hard units flip with probability O(c), so the
                variance grows like 1 / scale (it would be 1 / scale^2 with fresh noise), and like the number of parameters:
                prefer a larger scale than for a smooth net. In half precision scale must exceed the parameters' resolution.
    Value       the loss's value is the mean cost of the perturbed nets, not of theta itself.
    Memory      that of inference: the closure runs without a graph, D is sampled anew from its key whenever it is needed,
                also in the backward pass, one tensor at a time.
    exact_restore  True: a copy of the parameters is kept during the call and they come back bit by bit, also when the closure
                raises. False: no copy; the steps +c D, -2 c D, +c D are undone by replay, and what remains is rounded to
                the resolution of theta +- c D (in float32 at scale 0.01 less than 2e-8 away, after one call as after a
                thousand: rounded values come back).
    Requires    samples evaluations of the closure, in pairs (samples=2 is one); any cost, differentiable or not.
                Everything that depends on a parameter's value counts, also through .detach() or .item(); parameters outside
                the model get no gradient.
    Ranks       data-parallel ranks share the direction, that of rank 0, and average the difference; all must make the call.
    Reference   Spall 1992; Malladi et al. 2023 (MeZO) for the replayed direction; Nesterov & Spokoiny 2017 for the normal.
    """

    reference = "Spall 1992"
    runs_together = 2
    former_order = ("scale", "samples", "distribution")

    def __init__(
        self,
        model: nn.Module,
        *,
        scale: float = 0.01,
        samples: int = 2,
        distribution: Literal["rademacher", "normal"] = "rademacher",
        exact_restore: bool = True,
    ) -> None:
        super().__init__(model, scale=scale, samples=samples)
        if distribution not in ("rademacher", "normal"):
            raise ValueError(
                f"distribution is {distribution!r}: it must be 'rademacher' or 'normal'"
                + did_you_mean(distribution, ("rademacher", "normal"))
            )
        self.distribution = distribution
        self.exact_restore = exact_restore

    def estimate(self, closure: Closure) -> Tensor:
        key = self._begin()
        seed = int(key)
        parameters, derivatives, values = self.perturbed(), [], []
        for k in range(self.samples // 2):
            with torch.no_grad(), self._moving(parameters, seed, k) as move_to:
                move_to(self.scale)
                plus = self._cost(closure, key, k)
                move_to(-self.scale)
                minus = self._cost(closure, key, k)
            # (1) without its last factor, a number; `replayed` multiplies by D in the backward pass
            derivatives.append(batch_mean((plus - minus).double().sum(-1)) / (2 * self.scale))
            values.append(batch_mean((plus + minus).sum(-1)) / 2)
        along = self._over_ranks(torch.stack(derivatives) / (self.samples // 2))

        def replayed(number: int, p: Tensor) -> Tensor:
            with torch.no_grad():
                total = torch.zeros_like(p)
                for k, derivative in enumerate(along):
                    total.add_(self.direction(seed, number, p, k).mul_(derivative.to(p)))
                return total

        gradients = [(p, lambda i=i, p=p: replayed(i, p)) for i, p in enumerate(parameters)]
        return returned(type(self).__name__, with_gradient(torch.stack(values).mean(), gradients))

    def direction(self, seed: int, number: int, like: Tensor, sample: int) -> Tensor:
        """The entries of D for trainable parameter `number` of the model, whose shape and dtype `like` has."""
        # apart from the keys of the nodes' noise, and whatever the ids of the user's batch are
        key, run, ids = (
            torch.tensor(value, dtype=torch.int64, device="cpu") for value in (noise.step_seed(seed, number), sample, [0])
        )
        flat = torch.empty(like.numel(), dtype=like.dtype, device=like.device)
        for chunk, part in enumerate(flat.split(_CHUNK)):
            draw = noise.uniform if self.distribution == "rademacher" else noise.normal
            with noise.examples(ids + chunk):
                drawn = draw(key, 0, run, (1, part.numel()), part)[0]
            part.copy_(torch.where(drawn < 0.5, -1.0, torch.ones_like(drawn)) if self.distribution == "rademacher" else drawn)
        return flat.view(like.shape)

    @contextmanager
    def _moving(self, parameters: list[nn.Parameter], seed: int, sample: int) -> Iterator[Callable[[float], None]]:
        """Gives a function that puts the parameters at theta + c D; on leaving they are at theta."""
        saved = [p.detach().clone() for p in parameters] if self.exact_restore else None
        at = 0.0

        def move_to(c: float) -> None:
            nonlocal at
            for i, p in enumerate(parameters):
                start = p if saved is None else p.copy_(saved[i])
                start.add_(self.direction(seed, i, p, sample), alpha=c - at if saved is None else c)
            at = c

        try:
            yield move_to
        finally:
            if saved is None:
                move_to(0.0)
            else:
                for p, before in zip(parameters, saved, strict=True):
                    p.copy_(before)
