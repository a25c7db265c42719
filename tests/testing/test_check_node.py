"""`check_node` passes every node of the library, and finds each way in which a node can contradict itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dither
from dither import testing
from dither.testing import check_node
from plugins._binomial import Binomial


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


NODES = {
    "binary": (dither.Bernoulli(), normal(3, 2)),
    "no unit dimension": (dither.Bernoulli(), normal(3)),
    "signed": (dither.Bernoulli(values=(-1, 1)), normal(3, 2)),
    "categorical": (dither.Categorical(), normal(2, 2, 3)),
    "pooling": (dither.StochasticPool2d(2, stride=1), normal(2, 1, 3, 3).abs() + 0.1),
    "rectifier": (dither.NoisyReLU(scale=0.7), normal(3, 2)),
    "tanh": (dither.NoisyTanh(before=0.5, after=0.3), normal(3, 2)),
    "binomial": (Binomial(2), normal(3, 2)),
}


@pytest.mark.parametrize("name", NODES)
def test_the_librarys_nodes_agree_with_themselves(name: str) -> None:
    check_node(*NODES[name], draws=1 << 16)


def test_every_node_is_checked() -> None:
    exported = {kind for kind in vars(dither.nodes).values() if isinstance(kind, type) and issubclass(kind, dither.Node)}
    # a node without a partition has nothing to compare
    assert exported - {dither.Node, dither.NoisyMaxPool2d} == {type(node) for node, _ in NODES.values()} - {Binomial}


# --- nodes that are wrong in one way each -----------------------------------------------------------------------------
class ThresholdsOff(Binomial):
    """Samples by thresholds that are off by a tenth: the middle of each outcome's share still leads to it."""

    def sample(self, logits, noise):
        return super().sample(logits, noise * 1.1)


class Unnormalised(Binomial):
    """log_prob, and all that is made of it, for twice the measure that it should be."""

    def log_prob(self, logits, sample):
        return super().log_prob(logits, sample) + 0.1 * sample


class LogProbOff(Binomial):
    """log_prob of other logits than sample and partition use."""

    def log_prob(self, logits, sample):
        return super().log_prob(1.01 * logits, sample)

    def probabilities(self, logits):
        return Binomial.log_prob(self, logits.unsqueeze(-1), self.outcomes(logits)).exp()


class TakesItsNeighboursNoise(Binomial):
    def sample(self, logits, noise):
        return super().sample(logits, noise[:, :1].expand_as(noise))


class NoGradientOfTheCoefficient(Binomial):
    def log_prob(self, logits, sample):
        value = super().log_prob(logits, sample)
        return value.detach() + super().log_prob(logits, sample) / 2 - super().log_prob(logits, sample).detach() / 2


class ScoreNotCentred(Binomial):
    def score(self, logits, sample):
        return sample + 0 * logits


class ProbabilitiesInAnotherOrder(Binomial):
    def probabilities(self, logits):
        return super().probabilities(logits).flip(-1)

    def partition(self, logits):
        return Binomial(self.count).partition(logits)

    def sample(self, logits, noise):
        return Binomial(self.count).sample(logits, noise)


class MeanOff(Binomial):
    def mean(self, logits):
        return 1.001 * super().mean(logits)


class KernelOfItsOwn(Binomial):
    def sampling_kernel(self):
        return lambda logits, key: torch.zeros_like(logits)


class WideRectifier(dither.NoisyReLU):
    """Quadrature for noise of another scale."""

    def partition(self, logits):
        noise, log_weight = super().partition(logits)
        return 1.05 * noise, log_weight


class LostPart(dither.NoisyReLU):
    def partition(self, logits):
        return tuple(part[1:] for part in super().partition(logits))


WRONG = {
    ThresholdsOff: "sampling",
    Unnormalised: "partition",
    LogProbOff: "log_prob",
    TakesItsNeighboursNoise: "partition",
    NoGradientOfTheCoefficient: "gradient",
    ScoreNotCentred: "score",
    ProbabilitiesInAnotherOrder: "probabilities",
    MeanOff: "mean",
    KernelOfItsOwn: "kernel",
    WideRectifier: "sampling",
    LostPart: "partition",
}


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_a_wrong_node_is_found_by_name(kind: type) -> None:
    with pytest.raises(testing.CheckFailed) as found:
        node = kind(2) if issubclass(kind, Binomial) else kind(scale=0.7)
        check_node(node, normal(3, 2), draws=1 << 16)
    assert found.value.check == WRONG[kind]


@pytest.mark.parametrize("kind", [ThresholdsOff, Unnormalised])
def test_what_assert_unbiased_cannot_see(kind: type) -> None:
    """Oracles weight outcomes as the node's partition does: why there is a check of nodes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 1), kind(2), nn.Linear(1, 1)).double()
    x = normal(1, 2)
    testing.assert_unbiased(dither.ScoreFunction, net, lambda: torch.sin(2 * net(x)).sum(1))


@pytest.mark.parametrize("logits", [torch.zeros(2, 2), torch.full((2, 2), torch.inf, dtype=torch.float64), None])
def test_logits_that_say_nothing_are_refused(logits: object) -> None:
    with pytest.raises(ValueError, match="finite float64 logits"):
        check_node(dither.Bernoulli(), logits)  # type: ignore[arg-type]
