"""Corruption processes C(x~ | x): callables that hide part of their input, with the density where it is known.

>>> import torch
>>> from dither import corruption
>>> corrupt = corruption.SaltAndPepper(rate=0.4)
>>> x = torch.ones(2, 3)
>>> corrupt(x).shape
torch.Size([2, 3])
>>> corrupt.log_prob(x, x).exp()  # (1 - .4 + .4 / 2)^3
tensor([0.5120, 0.5120])

The noise is keyed like that of nodes: `torch.manual_seed` governs it, and it follows the examples (`noise.examples`).
A unit that stays carries its gradient. A corruption must leave several inputs possible, or a model learns the identity.
Source: Bengio, Yao, Alain and Vincent 2013 (generalized denoising auto-encoders), Sec. 2.
"""

from dither.corruption._base import Corruption
from dither.corruption._composed import Custom, Joint, Mixture, sizes_of, split
from dither.corruption._units import Gaussian, Masking, Resampling, SaltAndPepper

__all__ = [
    "Corruption",
    "Custom",
    "Gaussian",
    "Joint",
    "Masking",
    "Mixture",
    "Resampling",
    "SaltAndPepper",
    "sizes_of",
    "split",
]
