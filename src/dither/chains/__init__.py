"""Markov chains that sample: run, clamped, projected from a higher representation; non-parametric ones; energies.

>>> import torch
>>> from dither import chains
>>> from dither.models.gsn import GSN
>>> samples = chains.run(GSN((64, 100, 100)), torch.zeros(3, 64), steps=5, seed=0)
>>> samples.mean.shape  # (recorded steps, chains, units)
torch.Size([5, 3, 64])
"""

from dither.chains._energy import energy, relative_energies
from dither.chains._kernel_density import KernelConditional
from dither.chains._nonparametric import Conditional, Counts, Denoiser
from dither.chains._run import Model, Projected, Samples, State, run

__all__ = [
    "Conditional",
    "Counts",
    "Denoiser",
    "KernelConditional",
    "Model",
    "Projected",
    "Samples",
    "State",
    "energy",
    "relative_energies",
    "run",
]
