"""Reconstruction distributions P(x | x~) of a denoising model's outputs: samples, also clamped ones, and log_prob.

>>> import torch
>>> from dither import reconstruction
>>> pixels = reconstruction.Bernoulli()
>>> outputs = torch.zeros(2, pixels.outputs(784))
>>> pixels.sample(outputs).shape
torch.Size([2, 784])
"""

from dither.reconstruction._base import Reconstruction, check_clamp
from dither.reconstruction._factorised import Bernoulli, Categorical, Gaussian
from dither.reconstruction._joint import Joint
from dither.reconstruction._made import MADE
from dither.reconstruction._mixture import Mixture

__all__ = ["MADE", "Bernoulli", "Categorical", "Gaussian", "Joint", "Mixture", "Reconstruction", "check_clamp"]
