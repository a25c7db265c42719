"""The base class of reconstruction distributions, and their checks."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from dither import kernels


class Reconstruction(nn.Module):
    """A family of distributions over x (batch, units): its parameters are the outputs of a network.

    A sample may be conditioned on any subset of the units: `clamp` says which, `values` holds them. The other units
    follow their distribution *given* these, as clamped chains need (GSN paper, Sec. 5).
    """

    factorised: bool  # units (or one-hot variables) are independent given the outputs

    def outputs(self, units: int) -> int:
        """How many numbers the network must give for this number of units."""
        return units

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        """log P(x | outputs), summed over units: (batch,), differentiable in the outputs."""
        return self.terms(outputs, x).sum(-1)

    def terms(self, outputs: Tensor, x: Tensor) -> Tensor:
        """The terms of `log_prob` by unit, of factorised families: (..., outputs(units)), (..., units) -> (..., units).

        The log-probability of a subset of the units is the sum over it. A one-hot variable has its term where x is 1.
        """
        raise NotImplementedError(f"{type(self).__name__} is not factorised: its log-probability is no sum over units")

    @abstractmethod
    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | outputs], (batch, units)."""

    @abstractmethod
    def sample_unchecked(self, outputs: Tensor, clamp: Tensor | None, values: Tensor | None) -> Tensor:
        """`sample` for a mask and values that are (batch, units) and checked: what a family defines."""

    def sample(self, outputs: Tensor, clamp: Tensor | None = None, values: Tensor | None = None) -> Tensor:
        """A sample of x, (batch, units), given x[clamp] = values[clamp] if there is a mask.

        clamp       bool, (units,) or (batch, units)
        values      (batch, units), read where clamped
        """
        if clamp is None:
            return self.sample_unchecked(outputs, None, None)
        if values is None:
            raise ValueError("clamp is set without values: pass the values of the clamped units, shape (batch, units)")
        check_fit(self, outputs, values, "values")
        check_clamp(clamp, values)
        return self.sample_unchecked(outputs, clamp.expand(values.shape), values)

    def sample_with_mean(
        self, outputs: Tensor, clamp: Tensor | None = None, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(sample, the mean of the distribution that it is a sample of).

        That is `mean`; but of a mixture it is the mean of the sampled component, and of an autoregressive family the
        probability of each unit given those before it.
        """
        return self.sample(outputs, clamp, values), self.mean(outputs)

    def check(self, x: Tensor) -> None:
        """Raises ValueError where x is outside the distribution's support."""


def check_fit(family: Reconstruction, outputs: Tensor, x: Tensor, name: str = "x") -> None:
    """Raises ValueError where outputs are not a row for each row of x, as wide as the family needs."""
    needed = (*x.shape[:-1], family.outputs(x.shape[-1]))
    if outputs.shape != needed:
        raise ValueError(
            f"outputs has shape {tuple(outputs.shape)}, {name} {tuple(x.shape)}: {type(family).__name__} needs {needed} outputs"
        )


def check_clamp(clamp: Tensor, x: Tensor) -> None:
    """Raises ValueError for a mask that does not fit x (batch, units), or that leaves no unit free."""
    if clamp.dtype != torch.bool or clamp.shape not in (x.shape, x.shape[-1:]):
        raise ValueError(
            f"clamp has shape {tuple(clamp.shape)} and dtype {clamp.dtype}: a bool mask of shape ({x.shape[-1]},) or "
            f"{tuple(x.shape)} is needed, True where x is kept"
        )
    if kernels.readable(clamp) and clamp.reshape(-1, clamp.shape[-1]).all(-1).any():
        raise ValueError("clamp keeps every unit of an example: none is left to sample; set some entries to False")


def check_finite(x: Tensor, name: str = "x") -> None:
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} has {int((~torch.isfinite(x)).sum())} values that are not finite; look at the data")
