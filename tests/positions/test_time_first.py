"""Logits whose first dimension is not the batch: told by the shape, or by a check where it cannot be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dither import Bernoulli, Categorical, NoisyReLU, ScoreFunction, testing

NODES = {"binary": Bernoulli, "categorical": Categorical, "rectifier": NoisyReLU}
BATCH = 3


def spikes(kind: str, time: int, first: bool) -> tuple[nn.Module, Tensor]:
    """A node and its samples, (time, batch, 3), from logits with the time first or with the batch first."""
    node, logits = NODES[kind](), torch.randn(time, BATCH, 3, generator=torch.Generator().manual_seed(0))
    return node, lambda: node(logits) if first else node(logits.transpose(0, 1)).transpose(0, 1)


@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("time", [1, BATCH, BATCH + 2])
def test_a_row_of_another_example_is_found(kind: str, time: int) -> None:
    torch.manual_seed(0)
    for first in (False, True):
        node, sample = spikes(kind, time, first)
        cost = lambda sample=sample: (sample() * torch.arange(1.0, 4)).sum((0, 2))  # noqa: E731
        if first:
            message = r"row \d of the logits of node 'node' changes .*logits\.transpose\(0, 1\)"
            with pytest.raises(testing.CheckFailed, match=message):
                testing.assert_examples_separate(node, cost)
        else:
            testing.assert_examples_separate(node, cost)


@pytest.mark.parametrize("time", [1, BATCH + 2])
def test_estimators_refuse_what_the_shape_tells(time: int) -> None:
    node, sample = spikes("binary", time, True)
    with pytest.raises(ValueError, match="first dimension of logits must be the batch, example by example"):
        ScoreFunction(node)(lambda: sample().sum((0, 2)))


@pytest.mark.parametrize("seed", range(8))
def test_the_zoo_keeps_its_examples_separate(seed: int) -> None:
    problem = testing.random_problem(seed, max_bits=8.0)
    testing.assert_examples_separate(problem.model, problem.closure, draws=4)
