"""Small generative stochastic networks with random weights, and images for them."""

import torch

from dither.models.gsn import GSN


def random_images(rows=6, units=5, seed=0):
    return torch.rand(rows, units, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_gsn(*args, **kwargs):
    torch.manual_seed(3)
    model = GSN(*args, **kwargs).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.7 * torch.randn_like(p))
    return model
