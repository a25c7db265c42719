"""Distributions over a few states: all the states, and whether samples follow known probabilities."""

import itertools

import torch
from scipy import stats

FALSE_ALARM = 1e-6  # of one comparison, for a random seed; seeds are fixed, so a test is green for good or red for good


def products(*values):
    """All rows that take their i-th entry from values[i], float64."""
    return torch.tensor(list(itertools.product(*values)), dtype=torch.float64)


def binary(units):
    return products(*[(0, 1)] * units)


def one_hot(variables, categories):
    rows = torch.tensor(list(itertools.product(range(categories), repeat=variables)))
    return torch.nn.functional.one_hot(rows, categories).flatten(1).double()


def index_of(x, states):
    """Which state each row of x is, (batch,); a row that is none fails the test."""
    same = (x.unsqueeze(1) == states.to(x.dtype)).all(-1)
    assert same.sum(1).eq(1).all(), f"sampled, but no state: {x[same.sum(1) != 1][:1].tolist()}"
    return same.to(torch.uint8).argmax(1)


def assert_follow(index, probability):
    """Chi-square of sampled indices against probabilities; those of fewer than 5 expected are counted as one."""
    expected, counts = probability.detach().double() * len(index), torch.bincount(index, minlength=len(probability)).double()
    assert counts[probability == 0].sum() == 0, "an impossible state was sampled"
    rare = expected < 5
    expected = torch.cat((expected[~rare], expected[rare].sum().view(1)))
    counts = torch.cat((counts[~rare], counts[rare].sum().view(1)))
    possible = expected > 0
    statistic = float(((counts - expected)[possible].square() / expected[possible]).sum())
    assert int(possible.sum()) < 2 or stats.chi2(int(possible.sum()) - 1).sf(statistic) > FALSE_ALARM


def conditional(log_prob, states, clamp, values):
    """P(state | the clamped values), from log P of all states."""
    fits = ((states == values) | ~clamp).all(-1)
    return torch.softmax(log_prob.masked_fill(~fits, -torch.inf), -1)
