"""States of a few binary variables, and whether samples of them have known probabilities."""

import torch

SAMPLES = 40_000  # each test of them fails by chance once in 10,000 seeds, and the seed is fixed


def bits(n):
    return (torch.arange(2**n).unsqueeze(1) >> torch.arange(n - 1, -1, -1)) & 1


def p_value(samples, probability):
    """Of the chi-squared statistic of samples (indices of states) under these probabilities."""
    counts, expected = torch.bincount(samples, minlength=len(probability)).double(), probability.detach() * len(samples)
    assert not counts[expected == 0].any()
    possible = expected > 0
    statistic = ((counts - expected).square() / expected)[possible].sum()
    return float(torch.special.gammaincc((possible.sum() - 1) / 2, statistic / 2))


def index(x):
    return (x.long() * 2 ** torch.arange(x.shape[1] - 1, -1, -1)).sum(1)
